"""The one place that calls QuantaPay: form in, envelope out, key last, one deadline a call."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import SecretStr

from gateway import __version__
from gateway.clock import Clock
from gateway.errors import (
    UpstreamCredentialsRejected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay import readers
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.envelope import JsonValue, Reply, read_envelope
from gateway.quantapay.functions import CREATE_CHECKOUT_SESSION, Function
from gateway.quantapay.models import CheckoutPage
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.signing import checkout_signature
from gateway.telemetry.logs import annotate
from gateway.telemetry.metrics import Metrics

T = TypeVar("T")

MOST_BYTES = 1024 * 1024
"""The longest answer that is read; a page of 100 transactions is about 60 KiB."""

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)
_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # so that the cap on bytes read is a cap on bytes held
    "User-Agent": f"quantapay-gateway/{__version__}",
}


class QuantaPay:
    """QuantaPay's functions as coroutines. Raises only the errors under `UpstreamError`."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        url: str,
        api_keys: RotatingSecret,
        signing_secrets: RotatingSecret | None,
        payment_urls: PaymentUrls,
        timeout: float,
        upstream_name: Callable[[str], str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._http = httpx.AsyncClient(
            transport=transport,
            follow_redirects=False,  # a redirect would carry the key to another host (contract §10)
            trust_env=False,
            timeout=httpx.Timeout(timeout, connect=timeout / 2),
        )
        self._url = url
        self._api_keys = api_keys
        self._signing_secrets = signing_secrets
        self._payment_urls = payment_urls
        self._timeout = timeout
        self._upstream_name = upstream_name
        self._clock = clock
        self._metrics = metrics
        self.clock_skew: float | None = None
        """QuantaPay's clock less ours at its last answer, in seconds."""
        self.last_outcomes: dict[str, str] = {}
        """Function → `ok` or the problem code of its last call."""
        self._create = replace(CREATE_CHECKOUT_SESSION, read=self._read_page)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def call(self, function: Function[T], parameters: Mapping[str, str] | None = None) -> T:
        """Call one row of the table and return what its reader makes of the answer."""
        form = function.form(parameters or {})
        return await self._within_deadline(function, self._send_with_key(function, form))

    async def create_checkout_session(self, *, price: str, currency: str, order_id: str) -> CheckoutPage:
        """Make a hosted payment page, signed over exactly the texts that are sent (contract §5, §6.1).

        The page's address is one that may be shown to a payer. Errors say in `outcome` what became of the
        call unless QuantaPay definitely refused it.
        """
        order = {"price": price, "currency": currency, "order_id": order_id}
        return await self._within_deadline(self._create, self._send_order(order))

    async def _send_order(self, order: Mapping[str, str]) -> CheckoutPage:
        if self._signing_secrets is None:
            return await self._send_with_key(self._create, self._create.form(order))

        async def send_signed(secret: SecretStr) -> CheckoutPage:
            timestamp = str(int(self._clock.time()))
            signature = checkout_signature(secret, **order, timestamp=timestamp)
            form = self._create.form({**order, "timestamp": timestamp, "signature": signature})
            return await self._send_with_key(self._create, form)

        # QuantaPay's code for a bad signature is not known (contract §3), so any plain refusal counts as one.
        return await _with_either(self._signing_secrets, send_signed, refused_by=UpstreamRejected)

    def _read_page(self, response: JsonValue) -> CheckoutPage:
        page = readers.checkout_page(response)
        self._payment_urls.check(page.payment_url)
        return page

    async def _within_deadline(self, function: Function[T], work: Awaitable[T]) -> T:
        """Hold everything that one call does, second keys included, to one deadline."""
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except TimeoutError:
            self._observe(function, UpstreamTimeout.code, seconds=self._timeout)
            raise UpstreamTimeout(outcome=None if function.repeatable else "unknown") from None

    async def _send_with_key(self, function: Function[T], form: list[tuple[str, str]]) -> T:
        async def send(key: SecretStr) -> T:
            return await self._send(function, form, key)

        return await _with_either(self._api_keys, send, refused_by=UpstreamCredentialsRejected)

    async def _send(self, function: Function[T], form: list[tuple[str, str]], key: SecretStr) -> T:
        """Send once, read once, and tell metrics and the log line how it went."""
        name = self._upstream_name(function.name)
        # PHP lets the last of two equal names win: ours are the last.
        body = urlencode([*form, ("function", name), ("api-key", key.get_secret_value())])
        started = self._clock.monotonic()
        try:
            result = self._read(function, await self._exchange(body.encode("ascii")))
        except UpstreamError as error:
            if function.repeatable:
                error.outcome = None  # nothing was at stake
            self._observe(function, error.code, seconds=self._clock.monotonic() - started)
            raise
        self._observe(function, "ok", seconds=self._clock.monotonic() - started)
        return result

    async def _exchange(self, body: bytes) -> Reply:
        """Send a form and return the whole answer; errors tell whether the form may have arrived."""
        try:
            async with self._http.stream("POST", self._url, content=body, headers=_HEADERS) as response:
                self._compare_clocks(response.headers.get("date"))
                content = bytearray()
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        raise UpstreamInvalidResponse("QuantaPay's answer is over 1 MiB.", outcome="unknown")
                return Reply(status=response.status_code, headers=response.headers, body=bytes(content))
        except _NEVER_SENT:
            raise UpstreamUnavailable(retry_after=5, outcome="not_sent") from None
        except httpx.TimeoutException:
            raise UpstreamTimeout(outcome="unknown") from None
        except httpx.TransportError:
            raise UpstreamInvalidResponse("QuantaPay's answer was cut off.", outcome="unknown") from None

    def _read(self, function: Function[T], reply: Reply) -> T:
        """Read an answer; an error in it tells whether it is a definite no."""
        try:
            return function.read(read_envelope(reply, signed=function.signed, now=self._clock.time()))
        except UpstreamError as error:
            if not _is_definite(error, reply):
                error.outcome = "unknown"
            raise

    def _compare_clocks(self, date: str | None) -> None:
        try:
            theirs = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        self.clock_skew = round(theirs - self._clock.time(), 1)
        self._metrics.upstream_clock_skew.set(self.clock_skew)

    def _observe(self, function: Function[T], outcome: str, *, seconds: float) -> None:
        self.last_outcomes[function.name] = outcome
        self._metrics.upstream_requests.labels(function=function.name, outcome=outcome).inc()
        self._metrics.upstream_request_duration.labels(function=function.name, outcome=outcome).observe(seconds)
        annotate(
            upstream_function=function.name,
            upstream_outcome=outcome,
            upstream_ms=round(seconds * 1000, 1),
        )


async def _with_either(
    secrets: RotatingSecret,
    attempt: Callable[[SecretStr], Awaitable[T]],
    *,
    refused_by: type[UpstreamRefusal],
) -> T:
    """Attempt with each candidate until one is not refused; a refusal did nothing, so trying again is safe."""
    *others, last = secrets.candidates
    for secret in others:
        try:
            result = await attempt(secret)
        except refused_by:
            continue
        secrets.worked(secret)
        return result
    result = await attempt(last)
    secrets.worked(last)
    return result


def _is_definite(error: UpstreamError, reply: Reply) -> bool:
    """Tell whether QuantaPay surely did nothing: a refusal in its own words, not a web server's status."""
    if isinstance(error, UpstreamThrottled):
        return reply.status < 400  # noqa: PLR2004
    return isinstance(error, UpstreamRefusal) and reply.status < 500  # noqa: PLR2004
