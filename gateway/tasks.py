"""Ending a task for sure."""

import asyncio
from typing import Any

CANCEL_AGAIN = 0.25
"""Seconds for a task to end that was cancelled: longer than it may wait for Redis on its way out."""


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task, and return when it has ended, however it does.

    Once is not always enough: on Python 3.11 `asyncio.wait_for`, through which redis-py sends, can lose a
    cancellation (python/cpython#86296).
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN)
