"""Permits taken in advance: what lets a busy client's requests through without asking Redis for each.

They are taken together with those that requests wait for, and only where nobody can tell:

- for limits of 20 a second or more, and no more than come back within the 50 ms for which they are good: a limit is
  late by that at most, which is half of what Redis may take to answer, and never lets through what Redis has not
  counted;
- if nine tenths of the limit are left then, which the script sees to, as other processes and other addresses take of
  it too: what ended unused is a tenth of what a client may do at once, at worst;
- twice as many as the last time if those were used up in time, else as many as were used.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.access.limits import Decision, Limits
from gateway.clock import Clock

GOOD_FOR = 0.05
"""Seconds. A busy process takes 10 of them until those who waited for an answer of Redis have gone on."""
MOST_CALLERS = 1_000
"""Whose permits are kept; beyond, those of whoever asked longest ago are forgotten."""


@dataclass(slots=True)
class _Advance:
    """What was taken in advance when Redis was last asked about some limits."""

    permits: Iterator[Decision]
    size: int
    unused: int
    taken_at: float


class Permits:
    """The permits that this process has in advance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._advances: OrderedDict[Limits, _Advance] = OrderedDict()

    def take(self, limits: Limits) -> Decision | None:
        """Return a decision that lets a request through, if there is one."""
        advance = self._advances.get(limits)
        if advance is None or not advance.unused or not self._is_good(advance):
            return None
        advance.unused -= 1
        return next(advance.permits)

    def wanted(self, limits: Limits) -> int:
        """Return how many to take in advance, now that Redis is asked about these limits anyway."""
        advance = self._advances.get(limits)
        if advance is None:
            return 0
        used = advance.size - advance.unused
        return min(max(1, 2 * used) if self._is_good(advance) else used, _most(limits))

    def keep(self, limits: Limits, permits: Iterator[Decision], *, size: int, taken_at: float) -> None:
        """Keep `size` permits, perhaps none."""
        if not _most(limits):
            return
        self._advances[limits] = _Advance(permits, size, size, taken_at)
        self._advances.move_to_end(limits)
        if len(self._advances) > MOST_CALLERS:
            self._advances.popitem(last=False)

    def _is_good(self, advance: _Advance) -> bool:
        return self._clock.monotonic() - advance.taken_at < GOOD_FOR


def _most(limits: Limits) -> int:
    """Return how many come back while a permit is good."""
    return min(int(limit.quota.amount * GOOD_FOR / limit.quota.window) for limit in limits)
