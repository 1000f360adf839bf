"""How a worker counts: in memory, and into the file that the supervisor sums up when that is asked for.

By itself prometheus-client writes to the file at each increment, behind a lock and a system call: 1.4 µs, where adding
up takes 0.2. A cached read has nine increments.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import values


def count_in_memory() -> Callable[[], None]:
    """Have every metric that is made from now on count in memory; return what writes the counts to the file.

    Both belong to the event loop's thread. prometheus-client must have been imported with PROMETHEUS_MULTIPROC_DIR.
    """
    unwritten: set[Any] = set()

    class _Value(values.MultiProcessValue()):  # type: ignore[misc]  # a class made by a function
        """One number, as prometheus-client keeps it in the file, and ahead of the file."""

        def inc(self, amount: float) -> None:
            self._value += amount
            unwritten.add(self)

        def set(self, value: float, timestamp: float | None = None) -> None:
            self._value, self._timestamp = value, timestamp or 0.0
            unwritten.add(self)

        def write(self) -> None:
            super().set(self._value, self._timestamp)

    def write_all() -> None:
        while unwritten:
            unwritten.pop().write()

    values.ValueClass = _Value  # where each metric looks for it when it is made
    return write_all
