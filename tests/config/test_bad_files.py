"""A corpus of files with a realistic mistake each: its fault is named, and nothing of the file is repeated.

A file begins with what is expected of it, one fault a line: `# expect: <place> — <words>`. Whatever must not be
repeated holds the word `canary` or the number 777666.
"""

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.config import ConfigurationError, load_config

FILES = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
ENVIRON = {
    "STOREFRONT_QUOTE_SECRET": "canary-environment-0123456789-0123456789",
    "SHORT": "canary",
    "EMPTY": "",
    "QUANTAPAY_API_KEY": "canary-api-key-0123456789-0123456789",
}
SETTINGS_SECRETS = {"QUANTAPAY_API_KEY": SecretStr("canary-api-key-0123456789-0123456789")}
MARKS = ("canary", "canäry", "777666", "ca4a12")


def expectations(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]
    return [(place, words) for place, _, words in (text.partition(" — ") for text in texts)]


def load(path: Path, secrets_dir: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_config(path, environ=ENVIRON, secrets_dir=secrets_dir, settings_secrets=SETTINGS_SECRETS)
    return caught.value


def told_by(error: BaseException | None) -> str:
    """Everything that an exception and those behind it would print."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {error.args} {''.join(traceback.format_exception_only(error))}"
        error = error.__cause__ or error.__context__
    return text


def test_the_corpus_is_there() -> None:
    assert len(FILES) >= 35


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_bad_file_names_exactly_its_faults(path: Path, tmp_path: Path) -> None:
    faults = load(path, tmp_path).faults
    expected = expectations(path)
    assert expected
    told = [str(fault) for fault in faults]
    for place, words in expected:
        matching = [text for text in told if text.startswith((f"{place}:", f"{place} (line")) and words in text]
        assert len(matching) == 1, f"expected {place} — {words}; told were {told}"
    assert len(told) == len(expected), told


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_bad_file_is_not_repeated(path: Path, tmp_path: Path) -> None:
    error = load(path, tmp_path)
    assert not any(mark in told_by(error).lower() for mark in MARKS)
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_fault_has_the_line_it_is_on(path: Path, tmp_path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = sum(line.startswith("# expect: ") for line in lines)
    for fault in load(path, tmp_path).faults:
        if fault.where != "gateway.yaml":
            assert fault.line is not None
            assert comments < fault.line <= len(lines)
