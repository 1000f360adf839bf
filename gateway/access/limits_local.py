"""Limits as one process's share of them, in memory."""

from collections import OrderedDict
from collections.abc import Callable

from gateway.access.gcra import MICROSECONDS, Pace
from gateway.access.limits import Decision, Limit, Limits
from gateway.clock import Clock

MOST_LOCAL_KEYS = 100_000
"""About 30 MB; beyond, the keys unused for longest are forgotten."""


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

    async def take(self, limits: Limits) -> Decision:
        """Decide at once; nothing is waited for."""
        processes = max(1, self._share())
        now = int(self._clock.monotonic() * MICROSECONDS)
        paces = [Pace.of(limit.quota, processes) for limit in limits.each]
        backlogs = [self._backlog(limit, now, pace) for limit, pace in zip(limits.each, paces, strict=True)]
        allowed = all(pace.wait(backlog) == 0 for pace, backlog in zip(paces, backlogs, strict=True))
        if allowed:
            backlogs = [backlog + pace.interval for backlog, pace in zip(backlogs, paces, strict=True)]
            for limit, backlog in zip(limits.each, backlogs, strict=True):
                self._tats[limit.key] = (limit.quota.amount, now * limit.quota.amount + backlog)
                self._tats.move_to_end(limit.key)
            while len(self._tats) > self._most_keys:
                self._tats.popitem(last=False)
        return Decision(allowed, "local", limits, paces, backlogs)

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
