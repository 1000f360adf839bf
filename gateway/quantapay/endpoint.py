"""QuantaPay's one address: a form goes out once, and a whole answer comes back (contract §1)."""

import math
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from gateway import __version__
from gateway.clock import Clock
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.reply import Reply
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import traceparent


class Transport(Protocol):
    """What carries a request to QuantaPay's server and its answer back (`transport.py`)."""

    async def exchange(self, request: bytes, attempt: Attempt) -> Reply:
        """Send a whole HTTP request once, note in `attempt` how far it gets, and return its answer.

        Raises `UpstreamUnavailable` if it was surely not sent, else `UpstreamInvalidResponse`.
        """

    async def close(self) -> None:
        """Close every connection."""


class Endpoint:
    """Sends forms to QuantaPay. No redirect is followed: one would carry the key to another host (contract §10)."""

    def __init__(self, transport: Transport, *, url: str, clock: Clock, metrics: Metrics) -> None:
        """Prepare; nothing is connected yet."""
        self._transport = transport
        self._head = _head(httpx.URL(url))
        self._clock = clock
        self._metrics = metrics
        self._compare_at = -math.inf
        self.clock_skew: float | None = None
        """QuantaPay's clock less ours at its last answer, in seconds."""

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def post(self, form: bytes, attempt: Attempt) -> Reply:
        """Send a form, note in `attempt` how far it gets, and return the answer. Raises as the transport does."""
        attempt.started = self._clock.monotonic()
        trace = traceparent()
        traced = b"" if trace is None else b"traceparent: %b\r\n" % trace.encode("ascii")
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, traced, len(form), form)
        reply = await self._transport.exchange(request, attempt)
        self._compare_clocks(reply.headers.get("date"))
        return reply

    def _compare_clocks(self, date: str | None) -> None:
        now = self._clock.monotonic()
        if now < self._compare_at:
            return  # a date has whole seconds, and takes longer to read than the answer's other headers
        self._compare_at = now + 1.0
        try:
            theirs = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        self.clock_skew = round(theirs - self._clock.time(), 1)
        self._metrics.upstream_clock_skew.set(self.clock_skew)


def _head(url: httpx.URL) -> bytes:
    """Write what all requests begin with (RFC 9112 §3)."""
    lines = (
        b"POST %b HTTP/1.1" % url.raw_path,
        b"Host: %b" % url.netloc,
        b"Content-Type: application/x-www-form-urlencoded",
        b"Accept: application/json",
        b"Accept-Encoding: identity",  # so that the cap on bytes read is a cap on bytes held
        b"User-Agent: quantapay-gateway/%b" % __version__.encode("ascii"),
    )
    return b"".join(b"%b\r\n" % line for line in lines)
