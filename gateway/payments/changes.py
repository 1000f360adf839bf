"""Which sessions changed, told from one process to all: a short log in Redis that each reads on from where it was.

Publish/subscribe would lose what is said while a connection is down (ADR 0011). A log does not, and it is whole for a
reader as long as the entry that the reader saw last is still in it. Otherwise (Redis lost the log, or more happened
than it keeps) the reader is told to look at everything.
"""

from dataclasses import dataclass

import structlog

from gateway.errors import StorageUnavailable
from gateway.store.redis import Script, Store

log = structlog.get_logger()

KEY = "qpg:{sessions}:changes"
"""A sorted set: `<number>:<session id>`, scored by the number. Numbers only grow."""
MOST_KEPT = 1000
"""Changes; the oldest are dropped."""
KEPT_FOR = 3600
"""Seconds from the last change until the log ends."""

_ANNOUNCE = Script(
    """
    -- Adds a change of session ARGV[1]; keeps ARGV[2] changes, for ARGV[3] ms from now.
    -- Numbers grow even if the log was lost: a new one starts at the server's time, in
    -- microseconds, so that none is used again by chance.
    local time = redis.call("TIME")
    local number = time[1] * 1000000 + time[2]
    local newest = redis.call("ZRANGE", KEYS[1], -1, -1, "WITHSCORES")
    if newest[2] then
      number = math.max(number, tonumber(newest[2]) + 1)
    end
    number = string.format("%.0f", number)
    redis.call("ZADD", KEYS[1], number, number .. ":" .. ARGV[1])
    local excess = redis.call("ZCARD", KEYS[1]) - ARGV[2]
    if excess > 0 then
      local dropped = redis.call("ZRANGE", KEYS[1], excess - 1, excess - 1, "WITHSCORES")
      redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", dropped[2])
    end
    redis.call("PEXPIRE", KEYS[1], ARGV[3])
    """
)


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What a reader of the log has not seen yet."""

    cursor: int
    """Where to read on."""
    session_ids: frozenset[str]
    """The sessions that changed."""
    complete: bool
    """Whether these are all; otherwise any session may have changed."""


class Changes:
    """The log of changes to sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def announce(self, session_id: str) -> None:
        """Tell all processes that a session changed; to be called after the change.

        Without Redis nothing is told, and nothing raised: whoever watches the session reads it again before long.
        """
        try:
            await self._store.run(lambda redis: _ANNOUNCE(redis, [KEY], [session_id, MOST_KEPT, KEPT_FOR * 1000]))
        except StorageUnavailable:
            log.debug("change not announced", session_id=session_id)

    async def newest(self) -> int:
        """Return the cursor from which only changes yet to come are read. Raises `StorageUnavailable`."""
        newest = await self._read("ZRANGE", KEY, -1, -1)
        return newest[0][0] if newest else 0

    async def after(self, cursor: int) -> ChangeSet:
        """Return what changed after `cursor`; one command. Raises `StorageUnavailable`."""
        changes = await self._read("ZRANGEBYSCORE", KEY, cursor, "+inf")
        if not changes:
            return ChangeSet(cursor=0, session_ids=frozenset(), complete=cursor == 0)
        return ChangeSet(
            cursor=changes[-1][0],
            session_ids=frozenset(session_id for number, session_id in changes if number > cursor),
            complete=changes[0][0] == cursor,
        )

    async def _read(self, *command: str | int) -> list[tuple[int, str]]:
        entries: list[bytes] = await self._store.run(lambda redis: redis.execute_command(*command))
        parts = [entry.decode().partition(":") for entry in entries]
        return [(int(number), session_id) for number, _, session_id in parts]
