"""Log lines: one a request, allow-listed, and clean even if someone logs what they should not."""

import io
import json
import logging
import warnings

import pytest
import structlog
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
