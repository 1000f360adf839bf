"""A bulkhead: a function that is slow fills its own places, and no other's (interface §7)."""

import asyncio

from gateway.errors import Overloaded

PLACES = 64
"""Calls of one function under way at once, in this process."""
MOST_WAITING = 256
"""Calls that wait for a place; more are refused at once."""
LONGEST_WAIT = 1.0
"""Seconds that one of them waits."""


class Bulkhead:
    """So many places, taken in the order of asking. Whoever is cancelled leaves none behind.

    As a context it holds a place. Entering it raises `Overloaded` if too many wait for one, or if it takes too long.
    """

    def __init__(
        self, *, places: int = PLACES, most_waiting: int = MOST_WAITING, longest_wait: float = LONGEST_WAIT
    ) -> None:
        self._places = asyncio.Semaphore(places)
        self._most_waiting = most_waiting
        self._longest_wait = longest_wait
        self._waiting = 0

    async def __aenter__(self) -> None:
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()  # at once

    async def __aexit__(self, *_exception: object) -> None:
        self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._most_waiting:
            raise Overloaded(retry_after=1, outcome="not_sent")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._longest_wait):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(retry_after=1, outcome="not_sent") from None
        finally:
            self._waiting -= 1
