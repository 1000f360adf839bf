"""What is published about configuration is what the code says."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.config import reference
from gateway.settings import read_settings, variables
from gateway.settings.docstrings import field_docstrings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", reference.PUBLISHED)
def test_published_files_have_not_drifted(name: str) -> None:
    made = reference.PUBLISHED[name]()
    assert (ROOT / name).read_text(encoding="utf-8") == made, "run: python -m gateway.config.reference"


def test_publishing_writes_every_file(tmp_path: Path) -> None:
    reference.publish(tmp_path)
    assert (tmp_path / "docs/configuration.md").read_text(encoding="utf-8") == reference.render()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()} == set(
        reference.PUBLISHED
    )


def test_every_variable_is_described_with_an_example_that_it_takes() -> None:
    for variable in variables():
        assert variable.description.endswith(".")
        reading = read_settings(
            environ={variable.name: variable.takes.example}, env_file=None, secrets_dir=None, mode="sandbox"
        )
        assert [fault for fault in reading.faults if fault.where == variable.name] == []


def test_every_key_of_the_file_is_described() -> None:
    def described(model: type[BaseModel]) -> bool:
        texts = field_docstrings(model)
        return all(texts[name].endswith(".") for name in model.model_fields)

    assert all(described(model) for _, model in reference._SECTIONS)


def test_the_example_environment_is_complete_once_its_blanks_are_filled() -> None:
    env_file = ROOT / ".env.example"
    reading = read_settings(environ={}, env_file=env_file, secrets_dir=None)
    assert reading.unknown == ()
    assert {fault.where for fault in reading.faults} == {
        "QUANTAPAY_API_KEY",
        "QUANTAPAY_WEBHOOK_SECRET",
        "GATEWAY_REDIS_URL",
    }
    names = {line.removeprefix("# ").partition("=")[0] for line in env_file.read_text().splitlines() if "=" in line}
    assert {variable.name for variable in variables()} <= names
