"""Cancelling a task that talks to Redis."""

import asyncio
from types import TracebackType


class KeptCancellation:
    """As a context, raises `CancelledError` at its end if the task was cancelled inside, even if that was lost.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 may return as if nothing had been
    (python/cpython#86296). A loop that does nothing but ask Redis would then never end.
    """

    __slots__ = ("_cancelled_before", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task and self._task.cancelling() > self._cancelled_before:
            raise asyncio.CancelledError
