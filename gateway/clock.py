"""Time and randomness: the only source of either, so that a test can hold both still.

Everything that asks what time it is, waits, or makes an id takes a `Clock`. Production hands in `SystemClock`;
tests hand in one whose time they move themselves.
"""

import asyncio
import os
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the gateway may know of time and chance."""

    def time(self) -> float:
        """Return Unix time in seconds, for timestamps that leave the process."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never step back, for durations."""

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""

    def token_hex(self, nbytes: int) -> str:
        """Return `nbytes` unpredictable bytes as lower-case hex, for ids and keys."""

    def random(self) -> float:
        """Return a number from 0 up to but not including 1, for jitter."""


class SystemClock:
    """The machine's clock and its cryptographic random source."""

    _jitter = random.Random()  # noqa: S311 - whoever guesses it gains nothing; its own, so that no other is disturbed

    def time(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never step back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""
        await asyncio.sleep(seconds)

    def token_hex(self, nbytes: int) -> str:
        """Return `nbytes` unpredictable bytes as lower-case hex."""
        # What `secrets.token_hex` does in the end; its way there takes twice as long.
        return os.urandom(nbytes).hex()

    def random(self) -> float:
        """Return a number from 0 up to but not including 1."""
        return self._jitter.random()


def utc(seconds: float) -> datetime:
    """Turn Unix seconds into an aware UTC datetime cut to whole seconds, the precision of every answer."""
    return datetime.fromtimestamp(int(seconds), tz=UTC)
