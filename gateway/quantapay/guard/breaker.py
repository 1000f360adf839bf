"""A circuit breaker: what keeps failing is left alone, and probed until it works again (interface §7)."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.clock import Clock

WINDOW = 30
"""Seconds of results that count."""
FEWEST_CALLS = 10
"""Below this many results nothing is concluded."""
WORST_SHARE = 0.5
"""Of failures among them, from which it opens."""
PAUSE = 5.0
"""Seconds from opening, or from a probe that failed, to the next probe."""


class State(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it, until the pause is over; then lets it through as the probe."""
    HALF_OPEN = "half-open"
    """Refuses it, because the probe is under way."""


class Breaker:
    """Decides about calls by how the last ones went. Each call that is let through must be settled.

    A call counts in the period in which it was let through: what was sent before the breaker opened or closed says
    nothing about the time after.
    """

    def __init__(self, clock: Clock, *, on_change: Callable[[State, State], None]) -> None:
        """Start closed. `on_change` is called with the old and the new state."""
        self._clock = clock
        self._on_change = on_change
        self._results = _Results()
        self._state = State.CLOSED
        self._period = 0
        self._probe_at = 0.0

    @property
    def state(self) -> State:
        """Return the state; it changes only with a call, so an open one stays open while nobody calls."""
        return self._state

    def wait(self) -> int:
        """Return whole seconds until asking again makes sense; 0 if a call is let through now."""
        if self._state is State.CLOSED:
            return 0
        if self._state is State.HALF_OPEN:
            return 1  # nobody knows how long the probe takes
        return max(0, math.ceil(self._probe_at - self._clock.monotonic()))

    def enter(self) -> int:
        """Let a call through, which `wait()` just allowed; return its period, for `settle`."""
        if self._state is State.OPEN:
            self._turn(State.HALF_OPEN)
        return self._period

    def settle(self, period: int, *, good: bool | None, is_retry: bool = False) -> None:
        """Take the result of a call; None if it came to none, so that its place as the probe is free again.

        A call that fails again when it is retried is still one call that failed, unless it is the probe.
        """
        if period != self._period:
            return
        if self._state is State.HALF_OPEN:
            self._settle_probe(good)
        elif good or (good is False and not is_retry):
            calls, failures = self._results.add(int(self._clock.monotonic()), good=good)
            if calls >= FEWEST_CALLS and failures >= WORST_SHARE * calls:
                self._open(PAUSE)

    def _settle_probe(self, good: bool | None) -> None:
        if good:
            self._turn(State.CLOSED)
        else:
            self._open(0 if good is None else PAUSE)

    def _open(self, pause: float) -> None:
        self._results = _Results()
        self._probe_at = self._clock.monotonic() + pause
        self._turn(State.OPEN)

    def _turn(self, state: State) -> None:
        self._period += 1
        before, self._state = self._state, state
        self._on_change(before, state)


@dataclass(slots=True)
class _Second:
    at: int
    calls: int = 0
    failures: int = 0


class _Results:
    """How many calls there were in the last `WINDOW` seconds, and how many failed: a sum a second, not a list."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self._calls = 0
        self._failures = 0

    def add(self, now: int, *, good: bool) -> tuple[int, int]:
        """Add a result; return calls and failures, this one included."""
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(_Second(now))
        second = self._seconds[-1]
        second.calls, second.failures = second.calls + 1, second.failures + (not good)
        self._calls, self._failures = self._calls + 1, self._failures + (not good)
        while self._seconds[0].at <= now - WINDOW:
            old = self._seconds.popleft()
            self._calls, self._failures = self._calls - old.calls, self._failures - old.failures
        return self._calls, self._failures
