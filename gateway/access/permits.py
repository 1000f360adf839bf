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
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

from gateway.access.limits import Decision, Limits
from gateway.clock import Clock

GOOD_FOR = 0.05
"""Seconds. ADR 0016 has why not fewer."""
MOST_CALLERS = 1_000
"""Whose permits are kept; beyond, those of whoever asked longest ago are forgotten."""


@dataclass(slots=True)
class Grant:
    """What Redis is asked about some limits, and what it let through, told one decision after the other."""

    limits: Limits
    asked_at: float
    in_advance: int = 0
    """How many permits are asked for."""
    waiting: int = 0
    """How many requests wait for the answer."""
    taken: int = 0
    """How many were let through: the requests, and with all of the permits or none, if they were."""
    told: int = 0
    backlogs: Sequence[int] = ()
    """Of each limit after the decision that was told last."""

    @property
    def used(self) -> int:
        """How many permits were used."""
        return max(0, self.told - self.waiting)

    @property
    def most(self) -> int:
        """How many permits come back while they are good."""
        return int(self.limits.per_second * GOOD_FOR)

    def tell(self) -> Decision:
        """Return the next decision: a refusal once all that was taken is told."""
        allowed = self.told < self.taken
        if allowed:
            self.told += 1
            self.backlogs = list(map(add, self.backlogs, self.limits.intervals))
        return Decision(allowed, "redis", self.limits, self.limits.paces, self.backlogs)


class Permits:
    """The permits that this process has in advance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grants: OrderedDict[str, Grant] = OrderedDict()

    def take(self, limits: Limits) -> Decision | None:
        """Return a decision that lets a request through, if there is one."""
        grant = self._grants.get(limits.id)
        if grant is None or grant.told == grant.taken or not self._is_good(grant):
            return None
        return grant.tell()

    def ask(self, limits: Limits) -> Grant:
        """Begin to ask Redis about limits, for as many permits as there is use for."""
        grant = Grant(limits, asked_at=self._clock.monotonic())
        before = self._grants.get(limits.id)
        if before is not None:
            used = before.used
            grant.in_advance = min(max(1, 2 * used) if self._is_good(before) else used, grant.most)
        return grant

    def keep(self, grant: Grant) -> None:
        """Keep the permits that came of it, perhaps none, in place of those before: also of an ask at the same time."""
        if not grant.most:
            return
        self._grants[grant.limits.id] = grant
        self._grants.move_to_end(grant.limits.id)
        if len(self._grants) > MOST_CALLERS:
            self._grants.popitem(last=False)

    def _is_good(self, grant: Grant) -> bool:
        return self._clock.monotonic() - grant.asked_at < GOOD_FOR
