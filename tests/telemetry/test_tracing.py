"""Traces: what a span says, that it says no more, and that nothing is done where nobody traces."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.telemetry import logs, spans
from gateway.telemetry.opentelemetry import OpenTelemetryTracer
from gateway.telemetry.tracing import open_tracer
from gateway.webhooks.sender import Sender
from tests.plugins.gateway import MARKER, ORDERS_KEY, WEBHOOK_SECRET, example_config, quote, running
from tests.plugins.processes import clean_environ, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
RATE = "/exchange-rates/btc?currency=usd"
AWAY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
"""Nobody listens there."""
ALLOWED = {
    "error.type",
    "gateway.attempt",
    "gateway.cache.result",
    "gateway.client",
    "gateway.code",
    "gateway.limit.allowed",
    "gateway.limit.store",
    "gateway.subscriber",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "quantapay.function",
    "quantapay.urgency",
}


@pytest.fixture(autouse=True)
def nothing_goes_on_afterwards():
    """Wait for what still tries to send spans: it draws from `random`, which Hypothesis, in the next test, must not see."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("last-spans", "OtelBatch")):
            thread.join(20)
            assert not thread.is_alive(), thread.name


@contextmanager
def traced(settings, **parts):
    exporter = InMemorySpanExporter()
    with running(settings, tracer=OpenTelemetryTracer(SimpleSpanProcessor(exporter)), **parts) as outside:
        yield outside, exporter.get_finished_spans


@pytest.fixture
def config():
    config = example_config()
    del config["cache"]
    # Nobody listens there.
    config["subscribers"] = [{"id": "books", "url": "http://127.0.0.1:9/secret-path", "secret": f"whsec_{'E' * 42}A="}]
    return config


@pytest.fixture
def lines(log_lines):
    """What the gateway logs from now on, as a function."""
    logs.configure(level="debug", json=True, secrets=[], stream=log_lines)
    before = len(log_lines.getvalue())
    return lambda: [json.loads(line) for line in log_lines.getvalue()[before:].splitlines()]


@pytest.fixture
def collector():
    """An address that takes traces by OTLP, and what it was sent."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    serving.join()
    server.server_close()


def names(found):
    return [span.name for span in found]


def announce(outside, simulator):
    """Have the gateway hear of a payment, which it tells its subscriber of."""
    row = httpx.post(f"{simulator.url}/simulator/transactions", json={"external_reference": "nobody's"}).json()
    httpx.post(f"{outside.url}/webhooks/quantapay", json={"key": WEBHOOK_SECRET, "transaction": row})


def test_a_request_is_one_trace_with_what_it_waited_for(settings_of, config, simulator, valkey):
    with traced(settings_of(config)) as (outside, finished):
        assert outside.http.get(RATE, headers={"traceparent": TRACEPARENT}).status_code == 200
        until(lambda: "GET /exchange-rates/{cryptocurrency}" in names(finished()), "the request is over")
        found = {span.name: span for span in finished()}
        assert set(found) == {"GET /exchange-rates/{cryptocurrency}", "limit", "cache", "quantapay", "budget"}
        assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
        request = found["GET /exchange-rates/{cryptocurrency}"]
        assert f"{request.parent.span_id:016x}" == PARENT
        assert dict(request.attributes) == {
            "http.request.method": "GET",
            "http.route": "/exchange-rates/{cryptocurrency}",
            "http.response.status_code": 200,
            "gateway.client": "orders",
        }
        assert found["cache"].attributes["gateway.cache.result"] == "miss"
        assert found["limit"].attributes["gateway.limit.allowed"] is True
        assert found["quantapay"].attributes["quantapay.function"] == "get-exchange-rates"
        assert found["budget"].parent.span_id == found["quantapay"].context.span_id


def test_two_requests_are_two_traces_and_a_bad_traceparent_begins_another(settings_of, config, simulator, valkey):
    with traced(settings_of(config)) as (outside, finished):
        for header in ("garbage", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", TRACEPARENT.upper()):
            outside.http.get("/livez", headers={"traceparent": header})
        until(lambda: names(finished()).count("GET /livez") == 4, "all are over")
        traces = {span.context.trace_id for span in finished()}
        assert len(traces) == 4
        assert int(TRACE, 16) not in traces


def test_a_failure_is_told_by_its_code_alone(settings_of, config, simulator, valkey):
    simulator.scenario("garbage")
    with traced(settings_of(config)) as (outside, finished):
        assert outside.http.get(RATE).status_code == 502
        assert outside.http.get("/transactions?page=x").status_code == 422
        until(lambda: "GET /transactions" in names(finished()), "both are over")
        failed = [span for span in finished() if not span.status.is_unset]
        assert {span.name for span in failed} == {"GET /exchange-rates/{cryptocurrency}", "quantapay"}
        for span in failed:
            assert span.status.description is None
            assert span.attributes["error.type"] == "upstream-invalid-response"
        assert all(not span.events for span in finished())


def test_an_attempt_to_deliver_an_event_is_a_trace_that_its_line_names(
    settings_of, config, simulator, valkey_factory, lines
):
    with traced(settings_of(config, redis_url=valkey_factory().url)) as (outside, finished):
        announce(outside, simulator)
        until(lambda: "deliver" in names(finished()), "it is tried")
        attempt = next(span for span in finished() if span.name == "deliver")
        assert dict(attempt.attributes) == {
            "gateway.subscriber": "books",
            "gateway.attempt": 1,
            "error.type": "unreachable",
        }
    line = next(line for line in lines() if line["event"] == "attempt to deliver an event")
    assert line["trace_id"] == f"{attempt.context.trace_id:032x}"


def test_an_attempt_that_meets_a_bug_is_told_as_failed_without_its_text(
    settings_of, config, simulator, valkey_factory, monkeypatch
):
    async def broken(*_args):
        raise LookupError("text-of-somebody")

    monkeypatch.setattr(Sender, "send", broken)
    with traced(settings_of(config, redis_url=valkey_factory().url)) as (outside, finished):
        announce(outside, simulator)
        until(lambda: "deliver" in names(finished()), "it is tried")
        attempt = next(span for span in finished() if span.name == "deliver")
    assert not attempt.status.is_unset
    assert "text-of-somebody" not in attempt.to_json()


def test_no_secret_token_query_or_text_of_others_is_in_any_span(settings_of, config, simulator, valkey):
    with traced(settings_of(config)) as (outside, finished):
        shown = outside.browser.post("/checkout-sessions", json=quote(order_id="order-of-somebody")).json()
        token = shown["client_token"]
        with httpx.Client(base_url=outside.url) as browser:
            path = f"/checkout-sessions/{shown['id']}/events?token={token}"
            with browser.stream("GET", path) as answer:
                next(answer.iter_lines())
            browser.get(f"/nothing/here?token={token}")
            browser.get("/balances", headers={"Authorization": "Bearer qsk_of-somebody"})
        outside.http.get("/transactions?search=name-of-somebody")
        outside.http.post("/functions/odd-one", json={"secret": "text-of-somebody"})
        row = {"id": "1", "status": "C", "external_reference": "order-of-somebody", "title": "title-of-somebody"}
        httpx.post(f"{outside.url}/webhooks/quantapay", json={"key": WEBHOOK_SECRET, "transaction": row})
        httpx.post(f"{outside.url}/webhooks/quantapay", json={"key": "key-of-somebody", "transaction": row})
        simulator.scenario("html-error")
        outside.http.get("/credit-balance")
        outside.http.post("/checkout-sessions", json={"price": "1", "currency": "usd", "order_id": "b-of-somebody"})
        until(lambda: len(finished()) > 20, "spans are there")
    text = "\n".join(span.to_json() for span in finished())
    for secret in (MARKER, ORDERS_KEY, token, shown["id"], "somebody", "secret-path", "127.0.0.1", "?"):
        assert secret not in text
    for span in finished():
        assert set(span.attributes) <= ALLOWED
        assert not span.events
    assert set(finished()[0].resource.attributes) == {"service.name"}


def test_every_line_of_a_request_names_the_trace_and_no_other_does(settings_of, config, simulator, valkey, lines):
    with traced(settings_of(config)) as (outside, finished):
        outside.http.get("/livez", headers={"traceparent": TRACEPARENT})
        until(finished, "the request is over")
    structlog.get_logger().info("outside")
    by_event = {line["event"]: line for line in lines()}
    assert by_event["request"]["trace_id"] == TRACE
    assert "trace_id" not in by_event["outside"]


def test_without_a_tracer_a_callers_trace_is_passed_on_and_nothing_else_is(settings_of, config, simulator, valkey):
    passed = []
    with running(settings_of(config)) as outside:
        transport = outside.inside.services.quantapay._endpoint._transport
        exchange = transport.exchange

        def noted(request, attempt):
            passed.append([line for line in request.decode().split("\r\n") if line.startswith("traceparent:")])
            return exchange(request, attempt)

        transport.exchange = noted
        for header in (TRACEPARENT, "garbage", None):
            headers = {"Cache-Control": "no-cache"} | ({} if header is None else {"traceparent": header})
            assert outside.http.get("/balances", headers=headers).status_code == 200
    assert passed == [[f"traceparent: {TRACEPARENT}"], [], []]


def test_where_nobody_traces_none_of_it_is_imported():
    code = (
        "import sys, gateway.cli.program, gateway.telemetry.tracing as t; t.open_tracer({});"
        "print([name for name in sys.modules if name == 'gateway.telemetry.opentelemetry'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=clean_environ(), capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_span_that_nobody_sees_is_always_the_same_object():
    assert spans.span("limit") is spans.span("cache", {"quantapay.function": "get-balances"})
    assert spans.traceparent() is None
    with spans.span("limit") as nothing:
        nothing.set({"a": 1})
        nothing.name("b")
        nothing.fail("c")


def test_a_request_that_begins_inside_another_has_nothing_of_its_trace():
    """As one does that was sent before the other was answered (HTTP pipelining)."""
    with spans.root(None, "request", kind="server", traceparent=TRACEPARENT):
        assert spans.traceparent() == TRACEPARENT
        with spans.root(None, "request", kind="server"):
            assert spans.traceparent() is None
        assert spans.traceparent() == TRACEPARENT
    assert spans.traceparent() is None


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**AWAY, "OTEL_SDK_DISABLED": " True "},
        {**AWAY, "OTEL_TRACES_EXPORTER": "none"},
        {**AWAY, "OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_it_is_off_unless_it_is_said_where_traces_go(environ):
    assert open_tracer(environ) is None


@pytest.mark.parametrize("environ", [AWAY, {"OTEL_TRACES_EXPORTER": "otlp"}])
async def test_an_endpoint_or_the_exporters_name_switches_it_on(environ):
    tracer = open_tracer(environ)
    assert isinstance(tracer, OpenTelemetryTracer)
    await tracer.close()


def test_an_exporter_that_it_does_not_have_is_told_of():
    with structlog.testing.capture_logs() as said:
        open_tracer({**AWAY, "OTEL_TRACES_EXPORTER": "console"})
    assert "OTEL_TRACES_EXPORTER" in said[0]["event"]


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter"])
def test_without_all_of_the_extra_it_says_what_to_install(monkeypatch, missing):
    for name in [*sys.modules]:
        if name == "gateway.telemetry.opentelemetry" or name.startswith(f"{missing}."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # how Python notes that there is no such module
    with structlog.testing.capture_logs() as said:
        assert open_tracer(AWAY) is None
    assert "quantapay-gateway[otel]" in said[0]["event"]


def test_a_variable_that_the_sdk_refuses_costs_the_traces_and_not_the_gateway(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")  # less than a batch
    with structlog.testing.capture_logs() as said:
        assert open_tracer(AWAY) is None
    assert "OTEL_*" in said[0]["event"]


async def test_a_collector_that_is_away_holds_nobody_up(monkeypatch):
    monkeypatch.setenv(*next(iter(AWAY.items())))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")  # seconds; longer than anybody waits here
    tracer = open_tracer(AWAY)
    with spans.root(tracer, "request", kind="server"), spans.span("limit"):
        assert spans.traceparent().startswith("00-")
    started = time.monotonic()
    await tracer.close()
    assert time.monotonic() - started < 5, "about a second"


def test_workers_send_their_last_spans_when_they_end(start_gateway, collector):
    url, sent = collector
    hour = "3600000"
    gateway = start_gateway(
        GATEWAY_WORKERS="2", OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY=hour, OTEL_SERVICE_NAME="till"
    )
    for _ in range(10):
        assert gateway.get("/balances").status_code == 200
    assert gateway.get(f"/exchange-rates/btc?token={MARKER}").status_code == 422
    assert sent == []
    gateway.send(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    received = [whole for body in sent for whole in ExportTraceServiceRequest.FromString(body).resource_spans]
    counts = Counter(span.name for whole in received for scope in whole.scope_spans for span in scope.spans)
    assert counts["GET /balances"] == 10
    assert counts["GET /exchange-rates/{cryptocurrency}"] == 1
    resources = {(one.key, one.value.string_value) for whole in received for one in whole.resource.attributes}
    assert resources == {("service.name", "till")}
    for secret in (MARKER, ORDERS_KEY):
        assert secret.encode() not in b"".join(sent)
