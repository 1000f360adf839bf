"""What one process keeps of the answers it has seen, within bounds of number and size."""

from collections import OrderedDict
from dataclasses import dataclass

from gateway.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and until when it may be served. Times are seconds of this process's monotonic clock."""

    value: bytes
    asked_at: float
    """When its fetch began: of two entries, the one asked for later is newer."""
    fetched_at: float
    """When its fetch ended, from where its age counts."""
    fresh_for: float
    """Seconds from `fetched_at`."""
    stale_for: float
    """Seconds after those in which it may stand in for a failed fetch; 0 marks a value with a lifetime of its own."""
    failure: UpstreamError | None = None
    """Why it was last served stale."""
    retry_at: float = 0.0
    """When to try again after `failure`."""

    def age(self, now: float) -> float:
        """Return the seconds since it was fetched."""
        return max(0.0, now - self.fetched_at)

    def lifetime(self, wanted: float) -> float:
        """Return how long it is fresh for a reader who wants answers younger than `wanted` seconds.

        The shorter of what holds now and what held when it was fetched, as the configuration may have changed. A
        lifetime of its own is taken as it is.
        """
        return min(self.fresh_for, wanted) if self.stale_for else self.fresh_for

    def is_fresh(self, now: float, wanted: float) -> bool:
        """Tell whether it may be served without asking anyone."""
        return self.age(now) < self.lifetime(wanted)

    def is_usable(self, now: float, wanted: float) -> bool:
        """Tell whether it may be served because a fetch failed."""
        return self.age(now) < self.lifetime(wanted) + self.stale_for

    def is_resting(self, now: float) -> bool:
        """Tell whether a fetch failed so recently that the next would be no use."""
        return self.failure is not None and now < self.retry_at


def newest(one: Entry | None, other: Entry | None) -> Entry | None:
    """Return the entry that was asked for later, if there is any."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda entry: entry.asked_at)


class LocalCache:
    """Entries by name; beyond the bounds those that were unused for longest are forgotten.

    An entry counts with the length of its name and value. One that would fill more than an eighth of the bytes is
    not kept: it would push out too much else.
    """

    def __init__(self, *, most_entries: int, most_bytes: int) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """The bytes that its entries count."""
        return self._size

    def get(self, name: str) -> Entry | None:
        """Return an entry, however old."""
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def put(self, name: str, entry: Entry) -> None:
        """Keep an entry in place of an older one; if a newer one is here, keep that."""
        old = self._entries.get(name)
        if old is not None and old.asked_at > entry.asked_at:
            return
        self._discard(name)
        size = _size(name, entry)
        if size > self._most_bytes // 8:
            return
        self._entries[name] = entry
        self._size += size
        while len(self._entries) > self._most_entries or self._size > self._most_bytes:
            self._discard(next(iter(self._entries)))

    def _discard(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._size -= _size(name, entry)


def _size(name: str, entry: Entry) -> int:
    return len(name) + len(entry.value)
