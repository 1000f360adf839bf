"""Cancelling a task that talks to Redis."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_cancellation() -> Iterator[None]:
    """Raise `CancelledError` at the end if the task was cancelled inside, even if that was lost on the way.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 may return as if nothing had been
    (python/cpython#86296). A loop that does nothing but ask Redis would then never end.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > cancelled_before:
            raise asyncio.CancelledError
