"""GCRA, the "generic cell rate algorithm": what a limit of N in a window means for one request after the other.

It lets N requests through at once and then one each window/N. All it keeps of a limit is the time at which it will be
full again (TAT, "theoretical arrival time"). A request moves that time ahead by window/N, and is refused if it would
then lie further ahead than the window. How far it lies ahead of now is the limit's *backlog*.
"""

from functools import lru_cache
from typing import NamedTuple, Self

from gateway.quota import Quota

MICROSECONDS = 1_000_000
MOST_QUOTAS = 10_000
"""For each of which what follows from it is computed once."""


class Pace(NamedTuple):
    """A limit in GCRA's terms. Its unit of time is 1/amount microseconds, in which all of it is whole."""

    second: int
    interval: int
    """What one request costs."""
    span: int
    """How far ahead of now the TAT may lie."""

    @classmethod
    @lru_cache(MOST_QUOTAS)
    def of(cls, quota: Quota, processes: int = 1) -> Self:
        """Slow a quota down to one process's share; at once it lets through ⌊amount ÷ processes⌋, at least one."""
        window = quota.window * MICROSECONDS
        interval = window * processes
        span = max(window * quota.amount, interval)
        return cls(quota.amount * MICROSECONDS, interval, span)

    def remaining(self, backlog: int) -> int:
        """Return how many requests fit now."""
        return (self.span - backlog) // self.interval

    def wait(self, backlog: int) -> float:
        """Return the seconds until one more request fits, 0 if it does now."""
        return max(0, backlog + self.interval - self.span) / self.second
