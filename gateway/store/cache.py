"""The read cache: at most one fetch a key and freshness period, over all replicas, and stale answers in need.

A read is answered, in this order,

1. from this process's memory, if the entry there is fresh (no waiting, no Redis);
2. by the flight for its key that is under way in this process, else by a new one, which finds a fresh entry in
   Redis, or fetches, or waits for the replica that does (`flight.py`);
3. if that fails because QuantaPay is unwell, by an entry that has not been fresh for at most five minutes. For the
   next five seconds this process serves it at once, so that not every reader waits for a dead QuantaPay.

Without Redis all of it goes on in this process alone (interface §7). Values are bytes, and keys texts that name
everything the value depends on: the account, the function, its parameters and what is made of the reply.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple

from gateway.clock import Clock
from gateway.errors import (
    NotReady,
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.store.flight import MARGIN, Fetched, Flight, Served, SharedEntry
from gateway.store.local_cache import Entry, LocalCache, newest
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import span

__all__ = ["Cache", "CacheKey", "Fetched", "Found", "Served", "TracedCache"]

MOST_LOCAL_ENTRIES = 10_000
MOST_LOCAL_BYTES = 32 * 1024 * 1024
REST = 5.0
"""Seconds after a stale answer in which this process does not fetch for its key again."""

_UNWELL = (
    UpstreamInvalidResponse,
    UpstreamUnavailable,
    UpstreamTimeout,
    UpstreamThrottled,
    UpstreamBudgetExhausted,
    Overloaded,
)
"""Failures that say nothing of what was asked: a stale answer is better. The others are answers themselves."""


class CacheKey(NamedTuple):
    """What is read."""

    function: str
    """The label of its metric."""
    text: str
    """Names everything that the value depends on. It never leaves the process: Redis sees its hash."""


class Found(NamedTuple):
    """A value, where it came from and how old it is."""

    value: bytes
    served: Served
    age: float
    """Seconds since it was fetched."""
    fresh_for: float
    """Seconds from its fetch to the end of its freshness; 0 if it is not kept at all. Less `age`: what is left."""
    failure: UpstreamError | None = None
    """If `STALE`: why there is none fresher."""
    attempted: bool = True
    """If `STALE`: whether this read, or the flight that it joined, called the fetch, and that failed."""


class Cache:
    """Answers by key, coalesced over all replicas that share `store`."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        metrics: Metrics,
        timeout: float,
        most_entries: int = MOST_LOCAL_ENTRIES,
        most_bytes: int = MOST_LOCAL_BYTES,
    ) -> None:
        """Make an empty cache; `timeout` is the deadline of a fetch in seconds, and how long another's is awaited."""
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._timeout = timeout
        self._script = Script.load("gateway.store", "cache.lua")
        self._local = LocalCache(most_entries=most_entries, most_bytes=most_bytes)
        self._flights: dict[str, Flight] = {}
        """Those that can be joined, by the text of their key."""
        self._aloft: set[Flight] = set()
        """All of them, forced ones too."""
        self._closed = False

    async def read(
        self, key: CacheKey, *, fresh_for: float, fetch: Callable[[], Awaitable[Fetched]], force: bool = False
    ) -> Found:
        """Return the value of `key`, no older than `fresh_for` seconds unless it is `STALE`.

        With `fresh_for` 0 nothing is kept or looked up, but reads at the same time in this process share one fetch.
        With `force` nothing is looked up and no flight joined. If a forced fetch fails, a value that is still fresh
        counts as `STALE` too.

        Raises what `fetch` raises, `UpstreamTimeout` if another's fetch does not end in time, and `NotReady` once
        closed. A caller who is cancelled ends nobody else's read.
        """
        found = None if force else self._at_hand(key, fresh_for)
        if found is None:
            found = await self._by_flight(key, fresh_for, fetch, force)
        self._metrics.cache_lookups[key.function, found.served].inc()
        return found

    async def close(self) -> None:
        """End every flight; who still waits for one gets `NotReady`."""
        self._closed = True
        await asyncio.gather(*(flight.abort() for flight in self._aloft))

    def _at_hand(self, key: CacheKey, wanted: float) -> Found | None:
        """Look in this process only, without waiting."""
        entry = self._local.get(key.text) if wanted else None
        if entry is None:
            return None
        now = self._clock.monotonic()
        age, lifetime = entry.age(now), entry.lifetime(wanted)
        if age < lifetime:
            return Found(entry.value, Served.HIT, age, lifetime)
        if entry.is_resting(now) and entry.is_usable(now, wanted):
            return self._found(entry, wanted, Served.STALE, failure=entry.failure, attempted=False)
        return None

    async def _by_flight(
        self, key: CacheKey, wanted: float, fetch: Callable[[], Awaitable[Fetched]], force: bool
    ) -> Found:
        flight = None if force else self._flights.get(key.text)
        joins = flight is not None
        if flight is None:
            flight = self._take_off(key.text, wanted, fetch, force)
        try:
            landing = await flight.land(within=self._timeout + MARGIN)
        except _UNWELL as error:
            entry = self._stand_in(key.text, flight, wanted, error)
            if entry is None:
                raise
            return self._found(entry, wanted, Served.STALE, failure=entry.failure, attempted=flight.called)
        served = Served.COLLAPSED if joins and landing.served is Served.MISS else landing.served
        return self._found(landing.entry, wanted, served)

    def _take_off(self, text: str, wanted: float, fetch: Callable[[], Awaitable[Fetched]], force: bool) -> Flight:
        if self._closed:
            raise NotReady
        is_kept = wanted > 0
        flight = Flight(
            fetch,
            fresh_for=wanted,
            shared=SharedEntry(text, store=self._store, script=self._script, clock=self._clock) if is_kept else None,
            known=self._local.get(text) if is_kept else None,
            forced=force,
            timeout=self._timeout,
            clock=self._clock,
            on_end=lambda entry: self._landed(text, flight, entry),
        )
        self._aloft.add(flight)
        if not force:
            self._flights[text] = flight
        return flight

    def _landed(self, text: str, flight: Flight, entry: Entry | None) -> None:
        self._aloft.discard(flight)
        if self._flights.get(text) is flight:
            del self._flights[text]
        if entry is not None and entry.fresh_for > 0:
            self._local.put(text, entry)

    def _stand_in(self, text: str, flight: Flight, wanted: float, error: UpstreamError) -> Entry | None:
        """Return the newest entry that may be served although the fetch failed, and rest from fetching for a while."""
        now = self._clock.monotonic()
        entry = newest(flight.known, self._local.get(text)) if wanted else None
        if entry is None or not entry.is_usable(now, wanted):
            return None
        # A copy, as the error itself holds on to the frames that it came through, and to all that they hold.
        entry = replace(entry, failure=copy.copy(error), retry_at=now + REST)
        self._local.put(text, entry)
        return entry

    def _found(
        self,
        entry: Entry,
        wanted: float,
        served: Served,
        *,
        failure: UpstreamError | None = None,
        attempted: bool = True,
    ) -> Found:
        age = entry.age(self._clock.monotonic())
        return Found(entry.value, served, age, entry.lifetime(wanted), failure=failure, attempted=attempted)


class TracedCache(Cache):
    """A cache whose reads are spans. Apart, as one that nobody sees is a quarter of a read at hand."""

    async def read(
        self, key: CacheKey, *, fresh_for: float, fetch: Callable[[], Awaitable[Fetched]], force: bool = False
    ) -> Found:
        """Do the same in a span."""
        with span("cache", {"quantapay.function": key.function}) as read:
            found = await super().read(key, fresh_for=fresh_for, fetch=fetch, force=force)
            read.set({"gateway.cache.result": found.served})
        return found
