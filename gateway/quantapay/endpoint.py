"""QuantaPay's one address: a form goes out once, and a whole answer comes back (contract §1)."""

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import cast

import httpx

from gateway import __version__
from gateway.clock import Clock
from gateway.errors import UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnavailable
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.envelope import Reply
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import traceparent

MOST_BYTES = 4 * 1024 * 1024
"""The longest answer that is read. A page of 100 transactions is about 60 KiB, and at worst, full of texts that a payer
made up, 3 MiB."""
RECONNECT_AFTER = 5
"""Seconds for `Retry-After` when there is no connection."""

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)
_HEADERS = [
    (b"Content-Type", b"application/x-www-form-urlencoded"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),  # so that the cap on bytes read is a cap on bytes held
    (b"User-Agent", f"quantapay-gateway/{__version__}".encode()),
]


class Endpoint:
    """Sends forms to QuantaPay.

    By httpx's transport alone, without its client: that would cost more than all the rest of a call, and does nothing
    that is wanted here. It follows redirects, and one would carry the key to another host (contract §10); it keeps
    cookies, and takes proxies from the environment.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        url: str,
        timeout: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is connected yet. `timeout` is in seconds, and half of it is enough to connect.

        The rest is the caller's to time.
        """
        self._transport = transport
        self._url = httpx.URL(url)
        self._headers = [*_HEADERS, (b"Host", self._url.netloc)]
        # A call has one deadline for all (`client.py`); clocks for its parts would cost more than they catch.
        self._extensions = {"timeout": httpx.Timeout(None, connect=timeout / 2).as_dict()}
        self._clock = clock
        self._metrics = metrics
        self._compare_at = -math.inf
        self.clock_skew: float | None = None
        """QuantaPay's clock less ours at its last answer, in seconds."""

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def post(self, form: bytes, attempt: Attempt) -> Reply:
        """Send a form, note in `attempt` how far it gets, and return the answer.

        Raises `UpstreamUnavailable` if it was surely not sent, `UpstreamTimeout` if QuantaPay is silent, and
        `UpstreamInvalidResponse` if the answer is cut off or over 4 MiB.
        """
        attempt.started = self._clock.monotonic()
        headers = [*self._headers, (b"Content-Length", b"%d" % len(form))]
        if (trace := traceparent()) is not None:
            headers.append((b"traceparent", trace.encode("ascii")))
        body = _Form(form, attempt)
        request = httpx.Request("POST", self._url, headers=headers, stream=body, extensions=self._extensions)
        try:
            response = await self._transport.handle_async_request(request)
            async with aclosing(response):
                attempt.status = response.status_code
                answered = _by_name(response.headers)
                self._compare_clocks(answered.get("date"))
                return Reply(response.status_code, answered, await _whole_body(response))
        except _NEVER_SENT:
            attempt.sent = False
            raise UpstreamUnavailable(retry_after=RECONNECT_AFTER) from None
        except httpx.TimeoutException:
            raise UpstreamTimeout from None
        except httpx.TransportError:
            raise UpstreamInvalidResponse("QuantaPay's answer was cut off.") from None

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


class _Form(httpx.AsyncByteStream):
    """A form, and where to note that it is being sent: a transport asks for it only once it has a connection."""

    def __init__(self, form: bytes, attempt: Attempt) -> None:
        self._form = form
        self._attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._attempt.note_sent()
        yield self._form


def _by_name(headers: httpx.Headers) -> dict[str, str]:
    """Return headers for a few look-ups: httpx's own take 4 µs each."""
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in headers.raw}


async def _whole_body(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in cast("httpx.AsyncByteStream", response.stream):
        content += chunk
        if len(content) > MOST_BYTES:
            raise UpstreamInvalidResponse("QuantaPay's answer is over 4 MiB.")
    return bytes(content)
