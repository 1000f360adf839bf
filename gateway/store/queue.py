"""Durable queues in Redis: what is taken from one comes back by itself, unless it is finished in time.

A taken message is leased. Its taker finishes it, has it come back later, or gives it up; if it does none of these,
because its process was killed or lost Redis, the message is due again when the lease ends. So everything that was put
is taken at least once, and twice only after a fault (ADR 0012 has why this is no Redis stream).

Messages of one group are taken in the order in which they were put, as long as the one before is in its first three
attempts, and is not put off for more than a minute: after that it would hold up too much.

Everything here raises `StorageUnavailable`, and may have been done all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from gateway.store.redis import Script, Store

TAG = "{events}"
"""The hash tag of all queues: one message can be put in several in one step."""

_SCRIPT = Script.load("gateway.store", "queue.lua")
_PARTS = ("due", "since", "messages", "state", "newest", "dead")


class Put(IntEnum):
    """What became of a message that was put; the numbers are those of `queue.lua`."""

    PUT = 1
    THERE = 0
    """A message of this id is in the queue."""
    FULL = -1
    KNOWN = -2
    """Its subject is known with this digest, or its id was put before."""
    CONFLICT = -3
    """Its subject is known with another digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a message tells of something, to be put once."""

    history: str
    """The Redis key of what was told about one thing; it begins with `qpg:{events}:`."""
    subject: str
    """What of that thing is told."""
    digest: str
    """Stands for all that is told of it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is ours until its lease ends."""

    id: str
    message: str
    attempts: int
    """Before this one."""
    age: float
    """Seconds since it was put."""
    lease: int
    """Names it."""
    error: str = ""
    """Of the attempt before this one, as `Queue.retry` was told."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A message that was given up."""

    id: str
    message: str
    attempts: int
    died_at: float
    """Unix seconds, on Redis's clock."""
    error: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far behind a queue is."""

    waiting: int
    """Messages that are due, leased, or to be tried again."""
    age: float
    """Seconds since the oldest of them was put."""
    dead: int


class Queue:
    """One queue."""

    def __init__(self, store: Store, name: str, *, lease: float) -> None:
        """`lease`: seconds in which what is taken is seen to; more than that ever takes."""
        self._store = store
        self._lease = round(lease * 1000)
        self.keys = [f"qpg:{TAG}:{name}:{part}" for part in _PARTS]

    async def take(self, most: int) -> list[Taken]:
        """Take up to `most` messages that are due."""
        now, taken = await self._run("take", most, self._lease)
        return [
            Taken(id_.decode(), message.decode(), attempts, (now - since) / 1000, lease, error.decode())
            for id_, message, attempts, since, lease, error in taken
        ]

    async def finish(self, taken: Taken) -> None:
        """Remove a message for good."""
        await self._run("finish", taken.id)

    async def retry(self, taken: Taken, *, after: float, error: str = "") -> None:
        """Have a message be due again in `after` seconds, unless its lease has ended and it was taken again."""
        await self._run("retry", taken.id, taken.lease, round(after * 1000), error)

    async def bury(self, taken: Taken, *, error: str) -> None:
        """Give a message up, unless its lease has ended and it was taken again.

        It is kept until it is revived or discarded, or about 90 days.
        """
        await self._run("bury", taken.id, taken.lease, error)

    async def backlog(self) -> Backlog:
        """Count the messages."""
        waiting, since, dead, now = await self._run("count")
        return Backlog(waiting, age=max(0.0, (now - since) / 1000) if since else 0.0, dead=dead)

    async def dead(self, *, offset: int = 0, most: int = 100) -> list[Dead]:
        """Return messages that were given up, the latest first."""
        return [
            Dead(id_.decode(), message.decode(), attempts, died_at=died / 1000, error=error.decode())
            for id_, message, attempts, died, error in await self._run("dead", offset, most)
        ]

    async def revive(self, message_id: str) -> bool:
        """Have a dead message be due now, as if it had never been tried; tell whether there was one."""
        return bool(await self._run("revive", message_id))

    async def discard(self, message_id: str) -> bool:
        """Remove a dead message; tell whether there was one."""
        return bool(await self._run("discard", message_id))

    async def _run(self, *args: str | int) -> Any:  # noqa: ANN401 - a reply of Redis
        return await self._store.run(lambda redis: _SCRIPT(redis, self.keys, args))


async def put(
    store: Store,
    queues: Sequence[Queue],
    message_id: str,
    message: str,
    *,
    group: str = "",
    most: int = 0,
    once: Known | None = None,
) -> Put:
    """Put a message in every one of `queues`, or in none; it outlives the loss of Redis's primary when this returns.

    `group`: messages of the same are taken in order. `most`: messages that a queue may hold, 0 for any number. `once`:
    what the message tells, so that it is told once, however often it is put (within 90 days).
    """
    keys = [key for queue in queues for key in queue.keys]
    subject = [once.subject, once.digest] if once else ["", ""]
    if once:
        keys.append(once.history)
    if not keys:
        return Put.PUT
    return Put(await store.write(_SCRIPT, keys, ["put", message_id, message, group, most, *subject]))


async def known(store: Store, history: str, subject: str) -> str | None:
    """Return the digest with which a subject was told, if it was."""
    digest: bytes | None = await store.run(lambda redis: redis.execute_command("HGET", history, subject))
    return None if digest is None else digest.decode()
