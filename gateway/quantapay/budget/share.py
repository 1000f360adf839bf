"""What one process knows of the budget by itself, and what it may take of it while it cannot ask.

Nothing here waits or looks at a clock: `now` is always the monotonic time in seconds.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from gateway.quantapay.urgency import Urgency

LOGS = ("all", "reads", "background")
"""The logs that grants are entered in, each with a limit of its own. They are nested, so that a count is a length."""
DEPTHS = {Urgency.URGENT: 1, Urgency.READ: 2, Urgency.BACKGROUND: 3}
"""How many of the logs, from the first, a call of an urgency is entered in and held to."""

Counts = tuple[int, int, int]
"""One number for each log."""


def limits(amount: int) -> Counts:
    """Return how many of `amount` calls each log may hold: all, four fifths, a fifth, but at least one."""
    return amount, max(1, amount * 4 // 5), max(1, amount // 5)


class Grant(NamedTuple):
    """A call that was granted to this process."""

    id: str
    depth: int
    at: float
    """When this process learned of it: a little late, which errs on the safe side."""


class Share:
    """The grants of this process in the last `span` seconds, and what it last knew of the whole.

    It keeps one entry for each grant, so at most as many as the budget has calls.
    """

    def __init__(self, span: float, processes: Callable[[], int]) -> None:
        self._span = span
        self._count_processes = processes
        self._processes = 1
        self._own: tuple[deque[Grant], ...] = tuple(deque() for _ in LOGS)
        self._asking = [0, 0, 0]
        self._known_until = -math.inf
        """Until when what was known of the whole says anything; the two below are about that."""
        self._left: Counts = (0, 0, 0)
        self._taken = [0, 0, 0]
        """What this process was granted of what was left."""

    @property
    def processes(self) -> int:
        """How many share the budget, at least 1.

        While Redis is away or new, not fewer than before: after it lost its data, processes announce themselves again
        one by one.
        """
        return max(self._processes, self._count_processes())

    def learn(self, left: Counts, now: float) -> None:
        """Take note of what each log had left, as of `now`, when every process had reported."""
        self._processes = max(1, self._count_processes())
        self._known_until, self._left, self._taken = now + self._span, left, [0, 0, 0]

    def add(self, grant: Grant) -> None:
        """Count a grant, whoever gave it; call it in the order of time."""
        for log in range(grant.depth):
            self._own[log].append(grant)
            self._taken[log] += 1

    @contextmanager
    def asking(self, depth: int) -> Iterator[None]:
        """Count a call as good as granted meanwhile, for `wait(..., and_asked=True)`."""
        for log in range(depth):
            self._asking[log] += 1
        try:
            yield
        finally:
            for log in range(depth):
                self._asking[log] -= 1

    def wait(self, depth: int, amount: int, now: float, *, and_asked: bool = False) -> float:
        """Return the seconds until this process may take a call of a budget of `amount` alone, 0 if it may now.

        With `and_asked`, the calls that others of this process ask for at the moment count as granted.
        """
        self._forget(now)
        wait, processes = 0.0, self.processes
        shares = limits(max(1, amount // processes))
        for log in range(depth):
            own, asked = self._own[log], self._asking[log] if and_asked else 0
            over = len(own) + asked - shares[log]
            if over >= 0:
                oldest_in_the_way = own[over].at if over < len(own) else now
                wait = max(wait, oldest_in_the_way + self._span - now)
            if self._taken[log] + asked >= self._left[log] // processes:
                wait = max(wait, self._known_until - now)
        return wait

    def left(self, amount: int, now: float) -> int:
        """Return how many urgent calls of a budget of `amount` this process may take alone now."""
        self._forget(now)
        left = max(1, amount // self.processes) - len(self._own[0])
        if now < self._known_until:
            left = min(left, self._left[0] // self.processes - self._taken[0])
        return max(0, left)

    def newest(self, most: int) -> list[Grant]:
        """Return the newest own grants, the newest first."""
        return list(islice(reversed(self._own[0]), most))

    def _forget(self, now: float) -> None:
        for own in self._own:
            while own and own[0].at + self._span <= now:  # as in `wait`, so that rounding never makes a wait 0
                own.popleft()
