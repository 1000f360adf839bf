"""The budget as the rest of the gateway uses it: who waits for a grant, and how long."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Literal, NamedTuple, Protocol

import structlog

from gateway.clock import Clock
from gateway.errors import StorageUnavailable, UpstreamBudgetExhausted
from gateway.quantapay.budget.ledger import LONGEST_THROTTLE, LOOK_EVERY, Answer, Ask, Ledger, halved
from gateway.quantapay.budget.share import DEPTHS, Grant, Share, limits
from gateway.quantapay.urgency import Urgency
from gateway.quota import Quota
from gateway.store.redis import PROBE_INTERVAL, Store
from gateway.tasks import end
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import span

log = structlog.get_logger()

MARGIN = 1.0
"""Seconds that a grant counts beyond the window, for calls that take unequal time to reach QuantaPay."""
PATIENCE = 1.0
"""Seconds that a call may wait for its grant."""
JITTER = 0.05
"""Seconds over which those spread who wait for the same grant."""


class Budget(Protocol):
    """Grants calls to QuantaPay."""

    async def take(self, urgency: Urgency) -> None:
        """Return once a call is granted; raise `UpstreamBudgetExhausted` if none will be in time."""

    async def throttled(self) -> None:
        """Take note that QuantaPay throttled: half the budget for a minute, for every replica."""


class Unmetered:
    """Grants everything: for tools and tests that are not about the budget."""

    async def take(self, urgency: Urgency) -> None:
        """Grant."""

    async def throttled(self) -> None:
        """Go on as before."""


class BudgetState(NamedTuple):
    """The budget of all processes, as one of them last saw it."""

    limit: int
    """Calls in a window, for urgent ones; halved while QuantaPay throttles."""
    remaining: int
    """How many of them are left. Without Redis an estimate: as if each process had as many left as this one."""
    store: Literal["redis", "local"]


class SharedBudget:
    """The budget of a QuantaPay `account`, shared by all processes through Redis.

    `share` tells how many processes there are. The budget works before `start` too, but does not look by itself.
    """

    def __init__(
        self, store: Store, *, quota: Quota, account: str, share: Callable[[], int], clock: Clock, metrics: Metrics
    ) -> None:
        span = quota.window + MARGIN
        self._amount = quota.amount
        self._clock = clock
        self._metrics = metrics
        self._share = Share(span, share)
        self._ledger = Ledger(store, quota=quota, span=span, account=account, share=self._share, clock=clock)
        self._process = clock.token_hex(8)
        self._numbers = count()
        self._throttled_here = -math.inf
        """Until when, as QuantaPay told this process, in monotonic seconds."""
        self._throttled_elsewhere = -math.inf
        """The same, as Redis told. Kept apart and not sent back: each round would prolong it a little."""
        self._state = BudgetState(quota.amount, quota.amount, "local")
        self._looking: asyncio.Task[None] | None = None

    @property
    def state(self) -> BudgetState:
        """The budget as last seen, for `/status`."""
        return self._state

    async def start(self) -> None:
        """Look at the budget, now and every five seconds. Redis may be down: that is no failure."""
        await self._look()
        self._looking = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Stop looking."""
        await end(self._looking)

    async def take(self, urgency: Urgency) -> None:
        """Return once a call is granted. Background work does not wait for it, others at most `PATIENCE` seconds.

        Raises `UpstreamBudgetExhausted`, at once if no grant is to be had in that time; that costs nothing. A
        call that is cancelled meanwhile may have been granted: that wastes one and does no other harm.
        """
        with span("budget", {"quantapay.urgency": urgency.value}):
            await self._wait_for_one(urgency)

    async def _wait_for_one(self, urgency: Urgency) -> None:
        patience = 0.0 if urgency is Urgency.BACKGROUND else PATIENCE
        until = self._clock.monotonic() + patience
        while (wait := await self._try(DEPTHS[urgency])) > 0:
            left = until - self._clock.monotonic()
            if wait > left:
                # To the millisecond first, or a rounding error would make it a second more.
                retry_after = max(1, math.ceil(round(wait, 3)))
                raise UpstreamBudgetExhausted(retry_after=retry_after, outcome="not_sent")
            await self._clock.sleep(min(left, wait + JITTER * self._clock.random()))

    async def throttled(self) -> None:
        """Use half the budget for a minute, and tell the others: now, or when Redis is back."""
        self._throttled_here = self._clock.monotonic() + LONGEST_THROTTLE
        log.warning("quantapay throttles, half the budget is used", seconds=LONGEST_THROTTLE)
        await self._look()

    async def _try(self, depth: int) -> float:
        """Ask for a call; return the seconds until it may be granted, 0 if it is."""
        now = self._clock.monotonic()
        fits = self._share.wait(depth, self._limit(now), now, and_asked=True) <= 0
        ask = self._ask(depth, now, fits_share=fits)
        answer: Answer | None = None
        with self._share.asking(depth), suppress(StorageUnavailable):
            answer = await self._ledger.ask(ask)
        # Nothing is awaited from here on: what is decided is recorded before anyone else decides.
        now = self._clock.monotonic()
        wait = answer.wait if answer else self._share.wait(depth, self._limit(now), now)
        if wait <= 0:
            self._share.add(Grant(ask.id, depth, now))
        self._take_note(answer, now)
        return wait

    async def _look(self) -> None:
        answer: Answer | None = None
        with suppress(StorageUnavailable):
            answer = await self._ledger.ask(self._ask(0, self._clock.monotonic()))
        self._take_note(answer, self._clock.monotonic())

    async def _keep_looking(self) -> None:
        """Look when it is time; after a failure as often as the store probes, to report as soon as Redis is back."""
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep(PROBE_INTERVAL)
            if not self._ledger.in_touch or self._clock.monotonic() - looked >= LOOK_EVERY:
                await self._look()
                looked = self._clock.monotonic()

    def _ask(self, depth: int, now: float, *, fits_share: bool = True) -> Ask:
        throttled = max(0.0, self._throttled_here - now)
        return Ask(f"{self._process}:{next(self._numbers)}", depth, fits_share, throttled)

    def _limit(self, now: float) -> int:
        """Return N, or half of it while QuantaPay throttles."""
        throttled = now < max(self._throttled_here, self._throttled_elsewhere)
        return halved(self._amount) if throttled else self._amount

    def _take_note(self, answer: Answer | None, now: float) -> None:
        """Learn from an answer, None if Redis did not give any, and show what is known now."""
        if answer is None:
            limit = self._limit(now)
            remaining = min(limit, self._share.left(limit, now) * self._share.processes)
            self._state = BudgetState(limit, remaining, "local")
        else:
            self._throttled_elsewhere = max(self._throttled_elsewhere, answer.sent + answer.throttled)
            limit = halved(self._amount) if answer.throttled else self._amount
            caps, taken = limits(limit), answer.counts
            left = max(0, caps[0] - taken[0]), max(0, caps[1] - taken[1]), max(0, caps[2] - taken[2])
            if not answer.new_for:
                self._share.learn(left, answer.sent)
            self._state = BudgetState(limit, left[0], "redis")
        self._metrics.budget_limit.set(self._state.limit)
        self._metrics.budget_remaining.set(self._state.remaining)
