"""Docs and code say the same."""

import re
from pathlib import Path

import pytest
import yaml

from gateway.http.problems import PROBLEM_TYPES
from gateway.settings import variables
from gateway.telemetry import reference
from tests.plugins.redis_servers import CLUSTER_PERMISSIONS, PERMISSIONS, SENTINEL_PERMISSIONS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_metrics_page_is_current():
    assert (ROOT / reference.PAGE).read_text(encoding="utf-8") == reference.render(), (
        "run: python -m gateway.telemetry.reference"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_operation_is_in_the_readme():
    specification = yaml.safe_load((ROOT / "openapi" / "openapi.yaml").read_text(encoding="utf-8"))
    for path, item in specification["paths"].items():
        for method in item:
            assert f"`{method.upper()} {path}`" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_variable_and_make_target_named_exists(page):
    text = page.read_text(encoding="utf-8")
    known = {variable.name for variable in variables()}
    for name in re.findall(r"\b(?:QUANTAPAY|GATEWAY)_[A-Z_]*[A-Z]\b", text):
        assert name in known or any(other.startswith(f"{name}_") for other in known), name
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_every_problem_code_in_the_readme_exists():
    codes = [*re.findall(r"\b[45][0-9]{2} `([a-z-]+)`", README), *re.findall(r"/problems/([a-z-]+)", README)]
    assert codes
    for code in codes:
        assert code in PROBLEM_TYPES


def test_every_decision_is_in_the_index():
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "adr").glob("0*.md"):
        assert page.name in index


@pytest.mark.parametrize("name", ["failure-modes.md", "threat-model.md"])
def test_every_proof_on_a_page_is_a_test(name):
    proofs = re.findall(r"`([a-z_/]+\.py)::(\w+)`", (ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert proofs
    for path, test in proofs:
        module = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", module, re.MULTILINE), f"{path}::{test}"


def test_every_failure_mode_says_how_it_shows_and_what_proves_it():
    page = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8")
    for section in page.split("\n## ")[1:]:
        assert "**Shown by**" in section, section.partition("\n")[0]
        assert "**Proved by**" in section, section.partition("\n")[0]


def test_every_threat_of_the_list_says_what_holds_what_proves_it_and_what_is_left():
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert re.findall(r"^### API(\d+):2023 ", page, re.MULTILINE) == [str(number) for number in range(1, 11)]
    for section in page.partition("\n## Beyond")[0].split("\n### ")[1:]:
        for part in ("**Here**: ", "**Holds**: ", "**Proved by**: `", "**Left**: "):
            assert part in section, section.partition("\n")[0]


def test_the_permissions_that_are_documented_are_those_that_are_tested():
    page = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")
    assert f" -@all {PERMISSIONS}\n" in page
    assert f"`{CLUSTER_PERMISSIONS}`" in page
    assert f"`{SENTINEL_PERMISSIONS}`" in page


def test_every_metric_and_code_in_the_failure_modes_exists():
    page = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8")
    metrics = reference.render()
    for name in re.findall(r"`((?:gateway|quantapay)_[a-z_]+)`", page):
        assert f"`{name}`" in metrics, name
    for code in re.findall(r"\b[45][0-9]{2} `([a-z-]+)`", page):
        assert code in PROBLEM_TYPES
