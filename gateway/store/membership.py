"""How many gateway processes there are, so that each can take its share when Redis is away (interface §2.3)."""

import asyncio
from contextlib import suppress

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.store.client import RedisClient
from gateway.store.redis import Script, Store
from gateway.tasks import end

HEARTBEAT = 5.0
"""Seconds between two announcements of a process."""
FORGOTTEN_AFTER = 15.0
"""Seconds without an announcement after which a process no longer counts."""
KEY = "qpg:{processes}:seen"
"""A sorted set: each process's id, scored by when it was last seen, in milliseconds of Redis's clock."""

_ANNOUNCE = Script(
    """
    -- Announces ARGV[1], forgets who was silent for ARGV[2] ms, and returns how many are left.
    -- A time that far ahead is from before the server's clock was set back: forgotten too.
    local time = redis.call("TIME")
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call("ZADD", KEYS[1], string.format("%.0f", now), ARGV[1])
    redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", string.format("(%.0f", now - ARGV[2]))
    redis.call("ZREMRANGEBYSCORE", KEYS[1], string.format("(%.0f", now + ARGV[2]), "+inf")
    redis.call("PEXPIRE", KEYS[1], ARGV[2])
    return redis.call("ZCARD", KEYS[1])
    """
)


class Membership:
    """Announces this process in Redis and knows how many others do."""

    def __init__(self, store: Store, *, clock: Clock, assumed: int) -> None:
        self._store = store
        self._clock = clock
        self._id = clock.token_hex(8)
        self._processes = max(1, assumed)
        self._heartbeat: asyncio.Task[None] | None = None

    @property
    def processes(self) -> int:
        """The number of processes last seen, at least 1; before Redis ever answered, the number assumed."""
        return self._processes

    async def start(self) -> None:
        """Announce this process, now and every five seconds. Redis may be down: that is no failure."""
        await self._announce()
        self._heartbeat = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop announcing and, if Redis is there, no longer count."""
        await end(self._heartbeat)
        # Without Redis it is forgotten in fifteen seconds.
        with suppress(StorageUnavailable):
            await self._store.run(self._leave)

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT)
            await self._announce()

    async def _announce(self) -> None:
        # Without Redis the number last seen stays the best there is.
        with suppress(StorageUnavailable):
            self._processes = max(1, await self._store.run(self._join))

    async def _join(self, redis: RedisClient) -> int:
        return int(await _ANNOUNCE(redis, [KEY], [self._id, int(FORGOTTEN_AFTER * 1000)]))

    async def _leave(self, redis: RedisClient) -> None:
        await redis.zrem(KEY, self._id)
