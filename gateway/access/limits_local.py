"""Limits as one process's share of them, in memory: GCRA, and what its outcome means.

GCRA, the "generic cell rate algorithm", lets N requests through at once and then one each window/N. All it keeps
of a limit is the time at which it will be full again (TAT, "theoretical arrival time"). A request moves that time
ahead by window/N, and is refused if it would then lie further ahead than the window.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Self

from gateway.access.limits import MOST_CACHED, Decision, Limit, LimitState
from gateway.clock import Clock
from gateway.quota import Quota

MICROSECONDS = 1_000_000
MOST_LOCAL_KEYS = 100_000
"""About 30 MB; beyond, the keys unused for longest are forgotten."""


class Pace(NamedTuple):
    """A limit in GCRA's terms. Its unit of time is 1/amount microseconds, in which all of it is whole."""

    second: int
    interval: int
    """What one request costs."""
    span: int
    """How far ahead of now the TAT may lie."""

    @classmethod
    @lru_cache(MOST_CACHED)
    def of(cls, quota: Quota, processes: int = 1) -> Self:
        """Slow a quota down to one process's share; at once it lets through ⌊amount ÷ processes⌋, at least one."""
        window = quota.window * MICROSECONDS
        interval = window * processes
        return cls(quota.amount * MICROSECONDS, interval, max(window * quota.amount, interval))

    def wait(self, backlog: int) -> float:
        """Return the seconds until one more request fits, 0 if it does now."""
        return max(0, backlog + self.interval - self.span) / self.second


def decide(
    limits: Sequence[Limit],
    paces: Sequence[Pace],
    backlogs: Sequence[int],
    *,
    allowed: bool,
    store: Literal["redis", "local"],
) -> Decision:
    """Say what GCRA's outcome means: `backlogs` are how far each TAT now lies ahead, in its pace's unit."""
    states = tuple(
        LimitState(limit, (pace.span - backlog) // pace.interval, backlog / pace.second)
        for limit, pace, backlog in zip(limits, paces, backlogs, strict=True)
    )
    if allowed:
        return Decision(allowed=True, states=states, store=store)
    waits = [pace.wait(backlog) for pace, backlog in zip(paces, backlogs, strict=True)]
    refused_by = next(limit for limit, wait in zip(limits, waits, strict=True) if wait)
    return Decision(allowed=False, states=states, store=store, retry_after=max(waits), refused_by=refused_by)


class LocalLimiter:
    """One process's share of every limit, in memory: the limit ÷ the processes that `share` counts.

    The shares of all processes together never let through more than the limit; only where a limit has fewer
    requests than there are processes, each lets one through at once.
    """

    def __init__(self, clock: Clock, share: Callable[[], int], *, most_keys: int = MOST_LOCAL_KEYS) -> None:
        self._clock = clock
        self._share = share
        self._most_keys = most_keys
        self._tats: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By key: a limit's amount, and its TAT in 1/amount microseconds."""

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Decide at once; nothing is waited for."""
        processes = max(1, self._share())
        now = int(self._clock.monotonic() * MICROSECONDS)
        paces = [Pace.of(limit.quota, processes) for limit in limits]
        backlogs = [self._backlog(limit, now, pace) for limit, pace in zip(limits, paces, strict=True)]
        allowed = all(pace.wait(backlog) == 0 for pace, backlog in zip(paces, backlogs, strict=True))
        if allowed:
            backlogs = [backlog + pace.interval for backlog, pace in zip(backlogs, paces, strict=True)]
            for limit, backlog in zip(limits, backlogs, strict=True):
                self._tats[limit.key] = (limit.quota.amount, now * limit.quota.amount + backlog)
                self._tats.move_to_end(limit.key)
            while len(self._tats) > self._most_keys:
                self._tats.popitem(last=False)
        return decide(limits, paces, backlogs, allowed=allowed, store="local")

    def _backlog(self, limit: Limit, now: int, pace: Pace) -> int:
        """Return how far a limit's TAT lies ahead of `now` (microseconds), in 1/amount microseconds."""
        if limit.key not in self._tats:
            return 0
        amount, tat = self._tats[limit.key]
        if amount != limit.quota.amount:  # changed by a reload of the configuration
            tat = -(-tat * limit.quota.amount // amount)
        backlog = tat - now * limit.quota.amount
        if backlog > pace.span:
            # The window was longer before. Kept even if the request is refused, or callers would wait for the old.
            backlog = pace.span
            self._tats[limit.key] = (limit.quota.amount, now * limit.quota.amount + backlog)
        return max(backlog, 0)
