"""What goes over the wire for a form: every line of the head is ours."""

import pytest

from gateway import __version__
from gateway.clock import SystemClock
from gateway.errors import UpstreamUnavailable
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.endpoint import Endpoint
from gateway.quantapay.reply import Reply
from gateway.telemetry import spans
from gateway.telemetry.metrics import Metrics

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REPLY = Reply(200, {}, b"{}")


class Kept:
    """Keeps what it is to send, and answers or fails."""

    def __init__(self, failure=None):
        self.requests = []
        self._failure = failure

    async def exchange(self, request, attempt):
        self.requests.append(request)
        if self._failure is not None:
            raise self._failure
        return REPLY

    async def close(self):
        pass


def endpoint_of(transport, url="https://cloud.quantapay.app/api.php"):
    return Endpoint(transport, url=url, clock=SystemClock(), metrics=Metrics())


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("https://cloud.quantapay.app/api.php", "/api.php", "cloud.quantapay.app"),
        ("https://cloud.quantapay.app:443/api.php", "/api.php", "cloud.quantapay.app"),
        ("http://127.0.0.1:8081/a%20b/api.php?c=%7e%2Fd&e=%25#f", "/a%20b/api.php?c=%7e%2Fd&e=%25", "127.0.0.1:8081"),
        ("http://[::1]:8081", "/", "[::1]:8081"),
        ("http://name:word@käse.example/ü", "/%C3%BC", "xn--kse-qla.example"),
    ],
)
async def test_a_form_is_written_as_one_request_with_these_lines_and_no_other(url, target, host):
    transport = Kept()

    assert await endpoint_of(transport, url).post(b"a=1&b=2", Attempt()) is REPLY

    head, _, body = transport.requests[0].partition(b"\r\n\r\n")
    assert body == b"a=1&b=2"
    assert head.decode("ascii").split("\r\n") == [
        f"POST {target} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/x-www-form-urlencoded",
        "Accept: application/json",
        "Accept-Encoding: identity",
        f"User-Agent: quantapay-gateway/{__version__}",
        "Content-Length: 7",
    ]


async def test_within_a_trace_one_line_more_says_so():
    transport = Kept()
    endpoint = endpoint_of(transport)

    with spans.root(None, "request", kind="server", traceparent=TRACEPARENT):
        await endpoint.post(b"a=1", Attempt())
    await endpoint.post(b"a=1", Attempt())

    traced, untraced = ([line for line in request.split(b"\r\n") if b"trace" in line] for request in transport.requests)
    assert traced == [b"traceparent: " + TRACEPARENT.encode()]
    assert untraced == []


async def test_an_attempt_has_begun_when_the_transport_has_it_even_if_it_fails():
    attempt = Attempt()

    with pytest.raises(UpstreamUnavailable):
        await endpoint_of(Kept(UpstreamUnavailable(retry_after=5))).post(b"a=1", attempt)

    assert attempt.started is not None
