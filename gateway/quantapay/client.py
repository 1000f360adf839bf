"""The one place that calls QuantaPay: form in, envelope out, key last, one deadline a call.

A call is one thing a caller wants. It may take several attempts: the second key or signing secret of a rotation, and
retries. All share the call's deadline, and each goes through breaker, bulkhead and budget before it is sent.

A call that changes something gets a further attempt only after one that surely did nothing. So how far the last
attempt got says what became of the whole call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import quote_plus

from pydantic import SecretStr

from gateway.clock import Clock
from gateway.errors import (
    Outcome,
    UpstreamCredentialsRejected,
    UpstreamError,
    UpstreamRefusal,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
)
from gateway.quantapay import readers
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.budget import Budget
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.endpoint import Endpoint, Transport
from gateway.quantapay.envelope import JsonValue, read_envelope
from gateway.quantapay.functions import CREATE_CHECKOUT_SESSION, Function
from gateway.quantapay.guard import REFUSALS, Guard, Retries, is_worth_retrying
from gateway.quantapay.models import CheckoutPage
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.signing import checkout_signature
from gateway.telemetry.logs import annotate
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import span

T = TypeVar("T")


@dataclass(slots=True)
class _Call(Generic[T]):
    """What every attempt at one call shares."""

    function: Function[T]
    deadline: float
    """On the monotonic clock."""
    retries: int = 0


class QuantaPay:
    """QuantaPay's functions as coroutines. Raises only the errors under `UpstreamError`."""

    def __init__(
        self,
        transport: Transport,
        *,
        url: str,
        api_keys: RotatingSecret,
        signing_secrets: RotatingSecret | None,
        payment_urls: PaymentUrls,
        timeout: float,
        upstream_name: Callable[[str], str],
        budget: Budget,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is connected yet. `timeout` is each call's deadline in seconds, all waits included."""
        self._endpoint = Endpoint(transport, url=url, clock=clock, metrics=metrics)
        self._guard = Guard(clock=clock, metrics=metrics)
        self._retries = Retries(clock)
        self._budget = budget
        self._api_keys = api_keys
        self._signing_secrets = signing_secrets
        self._payment_urls = payment_urls
        self._timeout = timeout
        self._upstream_name = upstream_name
        self._clock = clock
        self._metrics = metrics
        self.last_outcomes: dict[str, str] = {}
        """Function → `ok` or the problem code of its last attempt."""
        self._create = replace(CREATE_CHECKOUT_SESSION, read=self._read_page)

    @property
    def clock_skew(self) -> float | None:
        """Return QuantaPay's clock less ours at its last answer, in seconds."""
        return self._endpoint.clock_skew

    @property
    def breakers(self) -> dict[str, str]:
        """Return function → `closed`, `open` or `half-open`; `connect` is the breaker that all functions share."""
        return self._guard.states

    async def close(self) -> None:
        """Close every connection."""
        await self._endpoint.close()

    async def call(self, function: Function[T], parameters: Mapping[str, str] | None = None) -> T:
        """Call one row of the table and return what its reader makes of the answer."""
        return await self._send_with_key(self._begin(function), function.form(parameters or {}))

    async def create_checkout_session(
        self, *, price: str, currency: str, order_id: str, within: float | None = None
    ) -> CheckoutPage:
        """Make a hosted payment page, signed over exactly the texts that are sent (contract §5, §6.1).

        The page's address is one that may be shown to a payer. `within`: seconds, if fewer are left of a request than
        a call has. Errors say in `outcome` what became of the call unless QuantaPay definitely refused it.
        """
        call = self._begin(self._create, within)
        order = {"price": price, "currency": currency, "order_id": order_id}
        if self._signing_secrets is None:
            return await self._send_with_key(call, self._create.form(order))

        async def send_signed(secret: SecretStr) -> CheckoutPage:
            timestamp = str(int(self._clock.time()))
            signature = checkout_signature(secret, **order, timestamp=timestamp)
            form = self._create.form({**order, "timestamp": timestamp, "signature": signature})
            return await self._send_with_key(call, form)

        # QuantaPay's code for a bad signature is not known (contract §3), so any plain refusal counts as one.
        return await _with_either(self._signing_secrets, send_signed, refused_by=UpstreamRejected)

    def _read_page(self, response: JsonValue) -> CheckoutPage:
        page = readers.checkout_page(response)
        self._payment_urls.check(page.payment_url)
        return page

    def _begin(self, function: Function[T], within: float | None = None) -> _Call[T]:
        self._retries.pay_in()
        seconds = self._timeout if within is None else min(within, self._timeout)
        return _Call(function, deadline=self._clock.monotonic() + seconds)

    def _left(self, call: _Call[T]) -> float:
        return call.deadline - self._clock.monotonic()

    async def _send_with_key(self, call: _Call[T], form: list[tuple[str, str]]) -> T:
        async def send(key: SecretStr) -> T:
            name = self._upstream_name(call.function.name)
            # PHP lets the last of two equal names win: ours are the last.
            fields = [*form, ("function", name), ("api-key", key.get_secret_value())]
            return await self._send_with_retries(call, _urlencoded(fields))

        return await _with_either(self._api_keys, send, refused_by=UpstreamCredentialsRejected)

    async def _send_with_retries(self, call: _Call[T], body: bytes) -> T:
        failure: UpstreamError | None = None
        while True:
            try:
                return await self._attempt(call, body, Attempt(is_retry=failure is not None))
            except UpstreamError as error:
                if failure is not None and isinstance(error, REFUSALS):
                    raise failure from None  # what QuantaPay did says more than why it was not asked again
                failure = error
                if not is_worth_retrying(error, repeatable=call.function.repeatable):
                    raise
                pause = self._retries.pause_before(call.retries + 1, left=self._left(call))
                if pause is None:
                    raise
            call.retries += 1
            await self._clock.sleep(pause)

    async def _attempt(self, call: _Call[T], body: bytes, attempt: Attempt) -> T:
        """Make one attempt, and tell breakers, budget, metrics, the log line and the trace how it went."""
        function = call.function
        with span("quantapay", {"quantapay.function": function.name}, kind="client") as tried:
            try:
                with self._guard.watch(function.name, attempt):
                    result = await self._send(call, body, attempt)
            except UpstreamError as error:
                error.outcome = _outcome(function, attempt, error)
                error.upstream_status = attempt.status
                self._observe(function, error.code, attempt)
                tried.fail(error.code)
                if isinstance(error, UpstreamThrottled):
                    await self._budget.throttled()
                raise
            finally:
                if attempt.status is not None:
                    tried.set({"http.response.status_code": attempt.status})
        self._observe(function, "ok", attempt)
        return result

    async def _send(self, call: _Call[T], body: bytes, attempt: Attempt) -> T:
        """Wait for a place and for the budget, send, and read the answer, all before the deadline."""
        function = call.function
        try:
            async with asyncio.timeout(self._left(call)), self._guard.place(function.name):
                await self._budget.take(function.urgency)
                reply = await self._endpoint.post(body, attempt)
        except TimeoutError:
            raise UpstreamTimeout from None
        return function.read(read_envelope(reply, signed=function.signed, now=self._clock.time()))

    def _observe(self, function: Function[T], outcome: str, attempt: Attempt) -> None:
        self.last_outcomes[function.name] = outcome
        self._metrics.upstream_requests[function.name, outcome].inc()
        annotate(upstream_function=function.name, upstream_outcome=outcome)
        if attempt.started is None:
            return  # refused before it was sent: there is nothing to time
        seconds = self._clock.monotonic() - attempt.started
        self._metrics.upstream_request_duration[function.name, outcome].observe(seconds)
        annotate(upstream_ms=round(seconds * 1000, 1))


_quoted_name = lru_cache(256)(quote_plus)


def _urlencoded(fields: Iterable[tuple[str, str]]) -> bytes:
    """Write a form as `urllib.parse.urlencode` does, in half the time: names are few and known."""
    return "&".join([f"{_quoted_name(name)}={quote_plus(value)}" for name, value in fields]).encode("ascii")


async def _with_either(
    secrets: RotatingSecret,
    attempt: Callable[[SecretStr], Awaitable[T]],
    *,
    refused_by: type[UpstreamRefusal],
) -> T:
    """Attempt with each candidate until one is not refused; a definite refusal did nothing, so that is safe."""
    *others, last = secrets.candidates
    for secret in others:
        try:
            result = await attempt(secret)
        except refused_by as error:
            if error.outcome is not None:
                raise
            continue
        secrets.worked(secret)
        return result
    result = await attempt(last)
    secrets.worked(last)
    return result


def _outcome(function: Function[T], attempt: Attempt, error: UpstreamError) -> Outcome | None:
    """Say what became of a call by how far its last attempt got; None where nothing is at stake."""
    if function.repeatable or _is_definite(error, attempt.status):
        return None
    return "unknown" if attempt.sent else "not_sent"


def _is_definite(error: UpstreamError, status: int | None) -> bool:
    """Tell whether QuantaPay surely did nothing: a refusal in its own words, not a web server's status."""
    if status is None or not isinstance(error, UpstreamRefusal):
        return False
    return status < (400 if isinstance(error, UpstreamThrottled) else 500)
