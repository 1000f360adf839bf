"""When an event that was not taken is sent again, and when it is given up (interface §3.8). Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
"""Seconds after the first attempt, the second, and so on: eleven attempts in a little over two days."""
JITTER: Final = 0.2
"""Share of a delay by which it is longer or shorter: what failed together is not tried again together."""
LONGEST_PAUSE: Final = 86_400.0
"""Seconds: of what a subscriber asks for with `Retry-After`, no more is granted."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to wait after each attempt."""

    delays: Sequence[float] = DELAYS

    def pause(self, attempts: int, *, asked: float = 0.0, chance: float) -> float | None:
        """Return the seconds to wait after so many attempts; None: that was the last.

        `asked`: seconds that the subscriber wants to be left alone, which are never cut short below a day. `chance`:
        from 0 up to but not including 1, for jitter.
        """
        if attempts > len(self.delays):
            return None
        delay = self.delays[attempts - 1] * (1 - JITTER + 2 * JITTER * chance)
        return max(delay, min(asked, LONGEST_PAUSE))


def retry_after(text: str | None, *, now: float) -> float:
    """Read a `Retry-After` header (RFC 9110 §10.2.3: seconds or a date) at Unix time `now`, as seconds from then.

    0 if there is none, if it says nothing that can be read, and if the date has passed.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for numbers that no machine word holds
        return 0.0
    if date.tzinfo is None:  # `-0000`, which is UTC from a machine whose place is not told
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
