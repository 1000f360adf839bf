"""Log lines: one a request, allow-listed, and clean even if someone logs what they should not."""

import errno
import io
import json
import logging
import os
import re
import warnings
from dataclasses import dataclass, field

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.telemetry import logs
from tests.plugins.processes import until


@pytest.fixture
def lines():
    """Configure logging anew for one test, and put back what was there."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(
        level="info", json=True, secrets=[SecretStr("s3cret-value"), SecretStr("s3cret-value-longer")], stream=stream
    )
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)


def test_configured_secrets_and_key_like_tokens_are_taken_out_everywhere(lines):
    structlog.get_logger().info(
        "with s3cret-value-longer in it",
        text="a qsk_abcdefghijklmnop b",
        nested={"s3cret-value": ["cst_AAAAAAAAAAAA", 5, None, True]},
        odd=SecretStr("x"),
    )
    [line] = lines()
    assert line["event"] == "with [redacted] in it"
    assert line["text"] == "a [redacted] b"
    assert line["nested"] == {"[redacted]": ["[redacted]", 5, None, True]}
    assert line["odd"] == "**********"


def test_lines_below_the_level_are_not_written(lines):
    structlog.get_logger().debug("quiet")
    assert lines() == []


def test_what_a_library_logs_is_told_by_place_and_kind_not_by_text(lines):
    try:
        raise ValueError("the input was s3cret")
    except ValueError:
        logging.getLogger("aiohttp.client").exception("failed with %s", "s3cret input")
    logging.getLogger("asyncio").error("a text built from s3cret input")
    logging.getLogger("httpx").info("not at this level")
    first, second = lines()
    assert (first["event"], first["logger"], first["error"]) == ("library", "aiohttp.client", "ValueError")
    assert first["template"] == "failed with %s"
    assert any("test_logs.py" in frame for frame in first["frames"])
    assert second["template"] is None
    assert "s3cret input" not in json.dumps([first, second])


def test_a_line_is_one_write_so_that_lines_of_several_workers_stay_apart():
    """Two workers once wrote `{…}{…}` and two line ends, which no reader of JSON lines takes."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    writes = []

    class Stream(io.StringIO):
        def write(self, text):
            writes.append(text)
            return len(text)

    logs.configure(level="info", json=True, secrets=[], stream=Stream())
    structlog.get_logger().info("a")
    structlog.get_logger().info("b")
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    assert [text.count("\n") for text in writes] == [1, 1]


def test_a_line_is_whole_in_a_file_even_if_the_file_takes_it_bit_by_bit(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, text: write(file, text[:7]))
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    with (tmp_path / "lines").open("w") as stream:
        logs.configure(level="info", json=True, secrets=[], stream=stream)
        structlog.get_logger().info("a", text="ü")
        logs.write_request({"status": 200})
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    first, second = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert (first["event"], first["text"]) == ("a", "ü")
    assert (second["event"], second["status"], second["level"]) == ("request", 200, "info")


def test_a_line_that_cannot_be_written_is_lost_and_nobody_else_is(tmp_path, monkeypatch):
    """The watch over Redis once ended when it could not say that Redis was away, and never found it again."""
    write, space = os.write, [1000]

    def write_while_there_is_space(file, text):
        if not space[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, text[: space[0]])
        space[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_while_there_is_space)
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    with (tmp_path / "lines").open("w") as stream:
        logs.configure(level="info", json=True, secrets=[], stream=stream)
        structlog.get_logger().info("a")
        space[0] = 20
        structlog.get_logger().info("torn")
        logs.write_request({"status": 200})
        space[0] = 1000
        structlog.get_logger().info("b")
        structlog.get_logger().info("c")
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    first, torn, *others = (tmp_path / "lines").read_text().splitlines()
    assert len(torn) == 20
    assert [json.loads(line)["event"] for line in [first, *others]] == ["a", "b", "c"]


@pytest.mark.parametrize(("level", "written"), [("debug", 1), ("info", 1), ("warning", 0)])
@pytest.mark.parametrize("as_json", [True, False])
def test_the_line_of_a_request_is_at_level_info(level, written, as_json):
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(level=level, json=as_json, secrets=[], stream=stream)
    logs.write_request({"method": "GET", "status": 200})
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    assert stream.getvalue().count("\n") == written
    assert stream.getvalue().count("request") == written


def test_warnings_become_lines(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    assert [line["logger"] for line in lines()] == ["py.warnings"]


def test_the_console_form_is_readable():
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(level="info", json=False, secrets=[], stream=stream)
    structlog.get_logger().info("request", status=200)
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    assert "request" in stream.getvalue()
    assert "status=200" in stream.getvalue()


def test_annotations_outside_a_request_go_nowhere():
    logs._record.set(None)
    logs.annotate(a=1)
    assert logs._record.get() is None


async def test_a_record_collects_what_happens_inside_a_request():
    record = logs.open_record()
    logs.annotate(client="orders")
    logs.annotate(client="reader", code="x")
    assert record == {"client": "reader", "code": "x"}


def test_one_line_a_request_with_all_that_operators_ask(gateway, log_lines):
    gateway.http.get("/transactions/7", headers={"X-Request-Id": "line-1"})
    until(lambda: '"line-1"' in log_lines.getvalue(), "the line is written, after the answer")
    [line] = [json.loads(text) for text in log_lines.getvalue().splitlines() if '"line-1"' in text]
    assert {name: line[name] for name in ("event", "level", "method", "route", "status", "client", "code")} == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/transactions/{id}",
        "status": 404,
        "client": "orders",
        "code": "not-found",
    }
    assert line["upstream_function"] == "get-transaction"
    assert line["upstream_outcome"] == "ok"
    assert line["duration_ms"] >= line["upstream_ms"] >= 0
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "secret",
    [
        "plain-secret-value",
        'with "quotes" and \\backslashes\\',
        "umlauts äöü",
        "line\nbreak",
        "\U0001f511 outside the BMP",
        "\udcff from an environment that is not UTF-8",
    ],
)
def test_a_secret_is_found_however_json_writes_it(secret):
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs.configure(level="info", json=True, secrets=[SecretStr(secret)], stream=stream)
    structlog.get_logger().info("x", text=f"before {secret} after", nested=[{"a": secret}])
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    structlog.configure(**before)
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert (line["text"], line["nested"]) == ("before [redacted] after", [{"a": "[redacted]"}])


def written(secrets, **fields):
    """Return a line as it is written, and what it says."""
    line = logs.JsonLine(logs.Redactor(secrets), secrets)(None, "info", {"event": "x", **fields})
    assert line.isascii()
    assert "\n" not in line
    return line, json.loads(line)


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('\0\b\t\n\r"\\/\x7f\x85\u2028\U0001f511'), max_size=8)


@given(secret=TEXTS.filter(bool), before=TEXTS, after=TEXTS)
def test_a_line_that_was_searched_says_what_one_that_was_cleaned_would(secret, before, after):
    secrets = [SecretStr(secret)]
    _, line = written(secrets, text=before + secret + after, nested=[{"a": secret}])
    cleaned = logs.Redactor(secrets)(None, "", {"text": before + secret + after, "nested": [{"a": secret}]})
    assert {name: line[name] for name in cleaned} == cleaned


@given(value=st.recursive(TEXTS | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(), st.lists))
def test_a_line_says_what_it_was_told(value):
    _, line = written([], value=value)
    assert line["value"] == value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/etc/\udcff.yaml", "/etc/\udcff.yaml"),
        (["a", {"b": "\ud800"}], ["a", {"b": "\ud800"}]),
        (b"\xff", "b'\\xff'"),
        (float("inf"), float("inf")),
        (2**70, 2**70),
        (ValueError("a"), "a"),
        (SecretStr("x"), "**********"),
    ],
)
def test_what_is_no_proper_text_is_written_all_the_same(value, told):
    _, line = written([], value=value)
    assert line["value"] == told
    assert line["timestamp"].endswith("Z")


def test_a_secret_beside_what_is_no_proper_text_is_found():
    _, line = written([SecretStr("s3cret")], value="\udcff s3cret qsk_abcdefghijklmnop")
    assert line["value"] == "\udcff [redacted] [redacted]"


@pytest.mark.parametrize("text", ["plain", "\udcff", "qsk_abcdefghijklmnop"], ids=["plain", "odd", "cleaned"])
def test_every_line_has_one_form(text):
    line, said = written([], text=text)
    assert line == json.dumps(said, separators=(",", ":"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", said["timestamp"])


@dataclass
class Envelope:
    """What shows its address alone."""

    address: str
    letter: str = field(repr=False)


@pytest.mark.parametrize("value", [Envelope("a", "hidden"), [{"a": Envelope("a", "hidden")}]])
def test_what_a_dataclass_keeps_out_of_its_repr_stays_out_of_a_line(value):
    line, _ = written([], value=value)
    assert "Envelope(address='a')" in line
    assert "hidden" not in line
