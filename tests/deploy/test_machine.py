"""The files for one machine: Compose and systemd. And how YAML is written."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

from gateway import __version__
from gateway.settings.model import variables

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "systemd" / "quantapay-gateway.service"
DRAIN_AND_TIMEOUT = 5 + 10 + 2
"""Seconds that the gateway takes at most from SIGTERM to its end, with the defaults."""


def tool(name: str) -> str:
    """Return a program that the virtual environment or the system has."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)


def test_yaml_is_written_in_one_way() -> None:
    linted = run(tool("yamllint"), "--strict", "--config-file", DEPLOY / ".yamllint", DEPLOY)
    assert linted.returncode == 0, linted.stdout


def test_the_dockerfile_follows_hadolint() -> None:
    linted = run(tool("hadolint"), DEPLOY.parent / "Dockerfile")
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("spoil", [False, True])
def test_compose_fits_its_schema(compose: dict[str, Any], spoil: bool) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    from check_jsonschema.builtin_schemas import get_builtin_schema

    file = copy.deepcopy(compose)
    if spoil:
        file["services"]["edge"]["port"] = file["services"]["edge"].pop("ports")
    schema = get_builtin_schema("vendor.compose-spec")
    faults = list(validator_for(schema)(schema).iter_errors(file))
    assert bool(faults) is spoil, faults


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def gateways(compose: dict[str, Any]) -> list[dict[str, Any]]:
    return [service for service in compose["services"].values() if "build" in service]


def test_compose_runs_two_gateways_that_nginx_and_prometheus_find(compose: dict[str, Any]) -> None:
    assert len(gateways(compose)) == 2
    addresses = [service["networks"]["edge"]["ipv4_address"] for service in gateways(compose)]
    upstreams = re.findall(r"server ([\d.]+):8080", (DEPLOY / "nginx/nginx.conf").read_text(encoding="utf-8"))
    assert addresses == upstreams
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (lookup,) = (found for scrape in scraped for found in scrape.get("dns_sd_configs", []))
    for service in gateways(compose):
        assert set(lookup["names"]) <= set(service["networks"]["metrics"]["aliases"])
        assert service["environment"]["GATEWAY_REPLICAS"] == "2"


def test_compose_believes_nginx_alone(compose: dict[str, Any]) -> None:
    edge = compose["services"]["edge"]["networks"]["edge"]["ipv4_address"]
    for service in gateways(compose):
        assert service["environment"]["GATEWAY_TRUSTED_PROXIES"] == f"{edge}/32"
        assert "ports" not in service, "only the edge is open to others"


def test_compose_sets_variables_that_exist_and_no_secret(compose: dict[str, Any]) -> None:
    known = {variable.name for variable in variables()}
    for service in gateways(compose):
        assert set(service["environment"]) <= known
        assert not [name for name in service["environment"] if name.endswith(("KEY", "SECRET", "NEXT"))]
        assert "./local/secrets:/run/secrets:ro" in service["volumes"]
        assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_AND_TIMEOUT


def test_compose_keeps_what_must_not_be_forgotten(compose: dict[str, Any]) -> None:
    valkey = compose["services"]["valkey"]
    words = dict(zip(valkey["command"][1::2], valkey["command"][2::2], strict=True))
    assert (words["--appendonly"], words["--maxmemory-policy"]) == ("yes", "noeviction")
    assert "valkey:/data" in valkey["volumes"]
    assert "ports" not in valkey


def test_compose_mounts_only_files_that_are_here_or_said_to_be_made(compose: dict[str, Any]) -> None:
    sources = [
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    absent = {source for source in sources if not (DEPLOY / source).exists()}
    assert all(source.startswith("./local/") for source in absent)
    page = (DEPLOY.parent / "docs/deployment.md").read_text(encoding="utf-8")
    assert all(f"deploy/{source.removeprefix('./')}" in page for source in sources if source.startswith("./local/"))
    dashboards = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/quantapay-gateway.yaml").read_text())
    folder = dashboards["providers"][0]["options"]["path"]
    assert f"./grafana/dashboard.json:{folder}/dashboard.json:ro" in compose["services"]["grafana"]["volumes"]


def test_compose_gives_nobody_more_than_it_needs(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in compose["services"][name]["ports"])


def unit() -> dict[str, str]:
    """The last value of each directive of the unit."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """The unit as on a machine where its program and user are there."""
    text = UNIT.read_text(encoding="utf-8").replace("/opt/quantapay-gateway/bin/quantapay-gateway", "/bin/true")
    assert "/bin/true serve" in text
    file = tmp_path / UNIT.name
    file.write_text(text, encoding="utf-8")
    return file


def test_systemd_takes_the_unit_without_a_complaint(installed_unit: Path) -> None:
    verified = run(tool("systemd-analyze"), "verify", installed_unit)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_systemd_finds_a_directive_that_it_does_not_know(installed_unit: Path) -> None:
    installed_unit.write_text(installed_unit.read_text().replace("NoNewPrivileges=", "NoNewPrivilege="))
    assert "NoNewPrivilege" in run(tool("systemd-analyze"), "verify", installed_unit).stderr


def test_the_unit_leaves_little_to_attack(installed_unit: Path) -> None:
    judged = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", installed_unit)
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr


def test_the_unit_stops_and_restarts_as_the_gateway_needs() -> None:
    assert int(unit()["TimeoutStopSec"]) > DRAIN_AND_TIMEOUT
    assert unit()["KillMode"] == "mixed", "the supervisor drains its workers itself"
    assert (unit()["Restart"], unit()["RestartPreventExitStatus"]) == ("always", "2")
    assert unit()["ExecReload"].endswith("kill -HUP $MAINPID")
    assert unit()["BindReadOnlyPaths"].endswith(":/run/secrets")
    assert unit()["Environment"] == f"GATEWAY_DATA_DIR=/var/lib/{unit()['StateDirectory']}"
    assert unit()["User"] in (UNIT.with_suffix(".sysusers")).read_text(encoding="utf-8").split()


def test_the_bill_of_materials_names_every_locked_package(tmp_path: Path) -> None:
    tool("cyclonedx-py")
    file = tmp_path / "sbom.json"
    made = run(DEPLOY.parent / "scripts" / "sbom", file)
    assert made.returncode == 0, made.stderr
    bill = json.loads(file.read_text(encoding="utf-8"))
    named = {(part["name"], part["version"]) for part in bill["components"]}
    lock = (DEPLOY.parent / "requirements.lock").read_text(encoding="utf-8")
    assert named == set(re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^ ;\\]+)", lock, re.MULTILINE))
    main = bill["metadata"]["component"]
    assert (main["name"], main["version"]) == ("quantapay-gateway", __version__)
    assert all(part["externalReferences"][0]["hashes"] for part in bill["components"])
    run(DEPLOY.parent / "scripts" / "sbom", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes(), "the same locks, the same bill"
