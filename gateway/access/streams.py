"""How many event streams may be open at once: of a client, of an address, of a session (interface §2.2).

Redis holds the places of all processes. A process renews its own every 15 seconds, so those of a killed one are free
after 45 at most, and those that Redis lost are there again. While Redis is away each process goes by what it has
open itself, and its share of the limits.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gateway.clock import Clock
from gateway.errors import StorageUnavailable, TooManyStreams
from gateway.store.redis import Script, Store
from gateway.tasks import end
from gateway.telemetry.metrics import Metrics

MOST_PER_ADDRESS = 20
MOST_PER_SESSION = 5
LIFETIME = 45.0
"""Seconds after which a place that nobody renews is free."""
RENEWAL = 15.0
"""Seconds between two renewals."""
RENEWAL_AGAIN = 1.0
"""Seconds until a renewal that failed is tried again."""
RETRY_AFTER = 5
"""Seconds after which to ask again: nobody can know when a reader leaves."""
MOST_AT_ONCE = 200
"""Places in one command, each in up to three sets: about a millisecond of Redis's time."""

_LIFETIME_MS = int(LIFETIME * 1000)

_RENEW = Script(
    """
    -- Puts member ARGV[i] into KEYS[i], if it is not there, and lets it end in as many ms as the last argument says.
    local time = redis.call("TIME")
    local lifetime = tonumber(ARGV[#KEYS + 1])
    local ending = string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000) + lifetime)
    for i, key in ipairs(KEYS) do
      redis.call("ZADD", key, ending, ARGV[i])
      redis.call("PEXPIRE", key, lifetime)
    end
    """
)
_FREE = Script(
    """
    -- Takes member ARGV[i] out of KEYS[i].
    for i, key in ipairs(KEYS) do
      redis.call("ZREM", key, ARGV[i])
    end
    """
)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """The place of one open stream. Whoever holds it calls `release`."""

    owner: "StreamSlots"
    id: str
    client_id: str
    keys: Sequence[str]
    """Of the limits that it counts against, all in one hash slot."""

    async def release(self) -> None:
        """Free it; a second time does nothing. Without Redis it is free there 45 seconds after its last renewal."""
        await self.owner.release(self)


class StreamSlots:
    """The places of this process's streams, within limits over all processes.

    `share` counts the processes, for when Redis is away.
    """

    def __init__(self, store: Store, *, clock: Clock, share: Callable[[], int], metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._share = share
        self._metrics = metrics
        self._take = Script.load("gateway.access", "streams.lua")
        self._open: dict[str, Slot] = {}
        self._counts: Counter[str] = Counter()
        """By key: the streams that are open here."""
        self._leaving: list[Slot] = []
        self._freeing = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Renew every place from now on."""
        self._renewing = asyncio.create_task(self._keep_renewing())

    async def close(self) -> None:
        """Stop renewing, and free what is still held."""
        await end(self._renewing)
        with suppress(StorageUnavailable):  # they free themselves
            await self._send(_FREE, list(self._open.values()))

    async def take(self, client_id: str, *, subject: str | None, session_id: str, most: int) -> Slot:
        """Take a place for one stream that watches a session.

        `most` is what the client may have open. `subject` is what `addresses.subject` says of the reader; None if its
        address does not count, as of an internal service. Raises `TooManyStreams` and then takes none. Returns within
        100 ms, with or without Redis.
        """
        limits = _limits(client_id, subject, session_id, most)
        slot = Slot(self, self._clock.token_hex(8), client_id, tuple(limits))
        args: list[str | int] = [slot.id, _LIFETIME_MS, *limits.values()]
        try:
            taken = await self._store.run(partial(self._take, keys=slot.keys, args=args))
        except StorageUnavailable:
            taken = self._fits_share(limits)
        if not taken:
            raise TooManyStreams(retry_after=RETRY_AFTER)
        self._open[slot.id] = slot
        self._counts.update(slot.keys)
        self._metrics.event_streams.inc()
        return slot

    async def release(self, slot: Slot) -> None:
        """Free a place; do nothing if it is free. Those that leave together go in one command."""
        if self._open.pop(slot.id, None) is None:
            return
        for key in slot.keys:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
        self._metrics.event_streams.dec()
        self._leaving.append(slot)
        async with self._freeing:
            leaving, self._leaving = self._leaving, []  # empty if who was before us took ours along
            with suppress(StorageUnavailable):  # they free themselves
                await self._send(_FREE, leaving)

    def _fits_share(self, limits: Mapping[str, int]) -> bool:
        processes = max(1, self._share())
        return all(self._counts[key] < max(1, most // processes) for key, most in limits.items())

    async def _keep_renewing(self) -> None:
        pause = RENEWAL
        while True:
            await self._clock.sleep(pause)
            try:
                await self._renew()
            except StorageUnavailable:
                pause = RENEWAL_AGAIN
            else:
                pause = RENEWAL

    async def _renew(self) -> None:
        for batch in _batches(list(self._open.values())):
            await self._send(_RENEW, batch, _LIFETIME_MS)
            # Who left meanwhile may have been taken out before the renewal put it in again.
            await self._send(_FREE, [slot for slot in batch if slot.id not in self._open])

    async def _send(self, script: Script, slots: Sequence[Slot], *args: int) -> None:
        """Run a script over every key of `slots`; raise `StorageUnavailable`."""
        for batch in _batches(slots):
            keys = [key for slot in batch for key in slot.keys]
            members = [slot.id for slot in batch for _ in slot.keys]
            await self._store.run(partial(script, keys=keys, args=[*members, *args]))


def _limits(client_id: str, subject: str | None, session_id: str, most: int) -> dict[str, int]:
    """Return how many streams each limit holds, by its key."""
    stem = f"qpg:{{{client_id}}}:streams"
    limits = {stem: most, f"{stem}:session:{session_id}": MOST_PER_SESSION}
    if subject is not None:
        limits[f"{stem}:ip:{subject}"] = MOST_PER_ADDRESS
    return limits


def _batches(slots: Iterable[Slot]) -> Iterator[Sequence[Slot]]:
    """Divide slots into what one command can take: those of one client, and not too many."""
    by_client: defaultdict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        by_client[slot.client_id].append(slot)
    for own in by_client.values():
        for start in range(0, len(own), MOST_AT_ONCE):
            yield own[start : start + MOST_AT_ONCE]
