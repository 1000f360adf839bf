"""One fetch of one answer over all replicas: look for it, take the lease to fetch it, or wait for who has that.

The lease lies in Redis beside the entry and is held while the fetch runs. Whoever dies with it frees it within
`LEASE` seconds, and the next one who looks takes over. While Redis is away every process fetches for itself.
"""

import asyncio
import copy
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any

from gateway.clock import Clock
from gateway.errors import GatewayError, NotReady, StorageUnavailable, UpstreamTimeout
from gateway.store.local_cache import Entry, newest
from gateway.store.redis import Script, Store
from gateway.tasks import end

LEASE = 3.0
"""Seconds after which the lease of a process that was killed is free."""
RENEWAL = 1.0
"""Seconds between two renewals of a lease: one may be lost."""
POLL, POLL_JITTER = 0.03, 0.05
"""Seconds between two looks for what another replica fetches, and up to how many more."""
STALE_FOR = 300.0
"""Seconds for which an answer that is no longer fresh may stand in for one that cannot be had (interface §7)."""
MARGIN = 0.5
"""Seconds beyond the deadline of a fetch, which should have ended itself by then."""
MOST_BYTES = 1024 * 1024
"""The longest value that is shared."""


class Served(StrEnum):
    """How a read was answered; the values of the metric's label."""

    HIT = "hit"
    MISS = "miss"
    """Fetched by this very read."""
    COLLAPSED = "collapsed"
    """Fetched by another read, here or in another replica, which this one waited for."""
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch gives."""

    value: bytes
    fresh_for: float | None = None
    """Seconds: a lifetime of its own, after which it is never served; None for that of the read."""


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended well."""

    entry: Entry
    served: Served
    """`HIT`, `MISS` or `COLLAPSED`, as whoever started the flight sees it."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was there at one moment."""

    at: float
    """The moment on this process's monotonic clock, in seconds: when the command was sent."""
    redis_time: int
    """The moment on Redis's clock, in milliseconds: when the command was carried out."""
    fresh: bool
    leased: bool
    """Whether the lease is ours now."""
    entry: Entry | None


class SharedEntry:
    """One entry and its lease in Redis, as one flight sees them. Raises `StorageUnavailable` as the store does."""

    def __init__(self, name: str, *, store: Store, script: Script, clock: Clock) -> None:
        # Hashed: a name can be long, and holds what callers sent.
        entry = f"qpg:cache:{{{hashlib.sha256(name.encode()).hexdigest()[:32]}}}"
        self._keys = [entry, f"{entry}:lease"]
        self._store = store
        self._script = script
        self._clock = clock
        self._token = clock.token_hex(16)
        self._may_hold_lease = False

    async def look(self, *, wanted: float, lease: bool) -> _Look:
        """Return what is there, and with `lease` take the lease if there is nothing younger than `wanted` seconds."""
        # From here on, since a command whose reply is lost may have been carried out.
        self._may_hold_lease = lease
        sent = self._clock.monotonic()
        reply = await self._run("look", _milliseconds(wanted), _milliseconds(LEASE) if lease else 0)
        redis_time, fresh, leased, *stored = reply
        self._may_hold_lease = bool(leased)
        entry = _entry(stored, sent, redis_time) if stored else None
        return _Look(sent, redis_time, bool(fresh), bool(leased), entry)

    async def renew(self) -> None:
        """Hold the lease for another `LEASE` seconds, if it is still ours."""
        await self._run("renew", _milliseconds(LEASE))

    async def keep(self, entry: Entry, look: _Look) -> None:
        """Write what was asked for at the time of `look`, unless something newer is there, and free the lease."""
        if len(entry.value) > MOST_BYTES:
            return
        # Counted from when the look was sent, so that nothing is fetched again before its time is over.
        took = _milliseconds(entry.fetched_at - look.at)
        times = (took, _milliseconds(entry.fresh_for), _milliseconds(entry.stale_for))
        await self._run("keep", look.redis_time, *times, entry.value)
        self._may_hold_lease = False

    async def let_go(self) -> None:
        """Free the lease if it is, or may be, ours."""
        if self._may_hold_lease:
            self._may_hold_lease = False
            await self._run("free")

    async def _run(self, verb: str, *args: int | bytes) -> Any:  # noqa: ANN401 - a reply of Redis
        """Run the script, a second time if Redis was slow for a moment only.

        Going on without it costs a call to QuantaPay that another process makes too.
        """
        given: list[Any] = [verb, self._token, *args]
        with suppress(StorageUnavailable):
            return await self._store.run(lambda redis: self._script(redis, self._keys, given))
        if not self._store.up:
            raise StorageUnavailable
        return await self._store.run(lambda redis: self._script(redis, self._keys, given))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _entry(stored: Sequence[Any], sent: float, redis_time: int) -> Entry:
    """Read an entry as `look` returns it; on the safe side, it is as old as if the reply took no time to come."""
    asked, age, fresh, stale, value = stored
    return Entry(
        value=value,
        asked_at=sent - max(0, redis_time - asked) / 1000,
        fetched_at=sent - age / 1000,
        fresh_for=fresh / 1000,
        stale_for=stale / 1000,
    )


class Flight:
    """One fetch that any number of readers wait for. It starts at once, as a task that outlives each of them."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Fetched]],
        *,
        fresh_for: float,
        shared: SharedEntry | None,
        known: Entry | None,
        forced: bool,
        timeout: float,
        clock: Clock,
        on_end: Callable[[Entry | None], None],
    ) -> None:
        """Start; `on_end` is called with the entry, or with None if there is none, before any reader goes on."""
        self._fetch = fetch
        self._fresh_for = fresh_for
        self._shared = shared
        self._forced = forced
        self._timeout = timeout
        self._clock = clock
        self.known = known
        """The newest entry that was seen, however old."""
        self.called = False
        """Whether the fetch was begun here."""
        self._on_end = on_end
        self._traceback: TracebackType | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def land(self, *, within: float) -> Landing:
        """Wait for the end, at most `within` seconds.

        Raises what the fetch raises, `UpstreamTimeout` if nobody's fetch ended in time, `NotReady` if aborted.
        """
        await asyncio.wait([self._task], timeout=within)  # cancelling this leaves the task alone
        if not self._task.done():
            raise UpstreamTimeout
        if self._task.cancelled():
            raise NotReady
        error = self._task.exception()
        if error is None:
            return self._task.result()
        # One object raised for every reader would gather the tracebacks of them all.
        raise copy.copy(error) if isinstance(error, GatewayError) else error.with_traceback(self._traceback)

    async def abort(self) -> None:
        """End it now, and return when it has ended."""
        await end(self._task)

    def _ended(self, task: asyncio.Task[Landing]) -> None:
        # Asking for the error also tells asyncio that it was seen: all who waited may have hung up.
        error = None if task.cancelled() else task.exception()
        self._traceback = error.__traceback__ if error else None
        self._on_end(None if task.cancelled() or error else task.result().entry)

    async def _run(self) -> Landing:
        if self._shared is None:
            return Landing(await self._call(self._clock.monotonic()), Served.MISS)
        try:
            return await self._find_or_fetch(self._shared)
        finally:
            with suppress(StorageUnavailable):  # then the lease ends by itself
                await self._shared.let_go()

    async def _find_or_fetch(self, shared: SharedEntry) -> Landing:
        give_up_at = self._clock.monotonic() + self._timeout
        served = Served.HIT
        while look := await self._look(shared):
            self.known = newest(self.known, look.entry)
            if look.entry is not None and look.fresh and not self._forced:
                return Landing(look.entry, served)
            if look.leased or self._forced:
                break
            if self._clock.monotonic() >= give_up_at:
                raise UpstreamTimeout
            served = Served.COLLAPSED
            await self._clock.sleep(POLL + POLL_JITTER * self._clock.random())
        return Landing(await self._fetch_and_share(shared, look), Served.MISS)

    async def _look(self, shared: SharedEntry) -> _Look | None:
        """Look, and ask for the lease unless forced, for then nobody is waited for; None while Redis is away."""
        try:
            return await shared.look(wanted=self._fresh_for, lease=not self._forced)
        except StorageUnavailable:
            return None

    async def _fetch_and_share(self, shared: SharedEntry, look: _Look | None) -> Entry:
        if look is None:
            return await self._call(self._clock.monotonic())
        renewal = asyncio.create_task(self._renew(shared)) if look.leased else None
        try:
            entry = await self._call(look.at)
        finally:
            await end(renewal)
        if entry.fresh_for > 0:
            with suppress(StorageUnavailable):  # what was fetched is answered all the same
                await shared.keep(entry, look)
        return entry

    async def _renew(self, shared: SharedEntry) -> None:
        while True:
            await self._clock.sleep(RENEWAL)
            with suppress(StorageUnavailable):
                await shared.renew()

    async def _call(self, asked_at: float) -> Entry:
        self.called = True
        try:
            async with asyncio.timeout(self._timeout + MARGIN):
                fetched = await self._fetch()
        except TimeoutError:
            raise UpstreamTimeout from None
        fresh_for, stale_for = self._fresh_for, STALE_FOR
        if fetched.fresh_for is not None and self._fresh_for:
            fresh_for, stale_for = fetched.fresh_for, 0.0
        return Entry(fetched.value, asked_at, self._clock.monotonic(), fresh_for, stale_for)
