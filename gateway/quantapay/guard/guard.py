"""The breakers and bulkheads of one process: one of each a function, and a breaker for the way to QuantaPay."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from gateway.clock import Clock
from gateway.errors import (
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.guard.breaker import Breaker, State
from gateway.quantapay.guard.bulkhead import Bulkhead
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

CONNECT = "connect"
"""The name, among the functions', of the breaker that all of them share: it counts failures to connect."""


class BreakerOpen(UpstreamUnavailable):
    """Not tried, because the last calls failed."""


REFUSALS = (BreakerOpen, Overloaded, UpstreamBudgetExhausted)
"""Failures of the gateway's own making: QuantaPay was not asked."""


class Guard:
    """Lets attempts through or refuses them. Names of functions come from the configuration, so they are few."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._breakers: dict[str, Breaker] = {}
        self._bulkheads: defaultdict[str, Bulkhead] = defaultdict(Bulkhead)
        self._breaker(CONNECT)

    @property
    def states(self) -> dict[str, str]:
        """Return the state of each breaker by its function; `connect` is the one that all share."""
        return {name: str(breaker.state) for name, breaker in self._breakers.items()}

    @contextmanager
    def watch(self, function: str, attempt: Attempt) -> Iterator[None]:
        """Let breakers decide about an attempt, and learn from how it ends.

        Raises `BreakerOpen` at once if it is not worth trying. An attempt that came to nothing (refused further
        down, cancelled, a bug) teaches nothing, and if it was a probe its place is free again.
        """
        way, ours = self._breaker(CONNECT), self._breaker(function)
        wait = max(way.wait(), ours.wait())
        if wait:
            raise BreakerOpen(retry_after=wait, outcome="not_sent")
        way_period, period = way.enter(), ours.enter()
        # At once, or a function that hangs would hold the probe's place on the way that all share.
        attempt.on_sent = partial(way.settle, way_period, good=True)
        way_good = good = None
        try:
            yield
            good = True
        except UpstreamError as error:
            if attempt.sent:
                good = not isinstance(error, UpstreamTimeout | UpstreamInvalidResponse)  # a refusal is an answer
            elif attempt.started is not None:
                way_good = False
            raise
        finally:
            way.settle(way_period, good=way_good, is_retry=attempt.is_retry)
            ours.settle(period, good=good, is_retry=attempt.is_retry)

    def place(self, function: str) -> Bulkhead:
        """Return the context that holds one of the function's places."""
        return self._bulkheads[function]

    def _breaker(self, name: str) -> Breaker:
        if name not in self._breakers:
            self._breakers[name] = Breaker(self._clock, on_change=partial(self._on_change, name))
            self._show(name, State.CLOSED)
        return self._breakers[name]

    def _on_change(self, name: str, before: State, after: State) -> None:
        self._show(name, after)
        if before is State.CLOSED:
            log.warning("breaker opened", breaker=name)
        elif after is State.CLOSED:
            log.info("breaker closed", breaker=name)

    def _show(self, name: str, current: State) -> None:
        for state in State:
            self._metrics.breaker_state.labels(function=name, state=str(state)).set(state is current)
