"""Redis behind a deadline: what is asked, how long anyone waits, and what happens when it is not there.

A request waits for Redis at most 100 ms in all (interface §7). One rule serves every kind of fault: a server that
is gone, frozen, loading, read-only, full or without quorum.

1. The command that met the fault raises `StorageUnavailable`, and Redis is *in doubt*.
2. A probe gives a second opinion, at once. If it succeeds the doubt is over, typically after a millisecond: one
   slow command is not an outage. If it fails Redis is *down*, which is logged and shown in `gateway_redis_up`, and
   the probe goes on every quarter of a second until it succeeds.
3. Other commands wait for that opinion, but not beyond 50 ms from when the doubt began; from then on, and while
   Redis is down, they raise at once: a request that was caught by the fault does not wait again, and a flood does
   not pile up.

A write that no replica has in time (`Store.write`) is refused as well, but raises no doubt: others can go on. If
it was the primary that did not answer, the next command finds that out, or the look that is taken every second.

Errors that only a mistake of ours can cause (wrong type, wrong arguments, keys of several slots) are none of this:
they propagate as they are.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Self, TypeAlias, TypeVar

import structlog
from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.store.cancellation import KeptCancellation
from gateway.store.client import DEADLINE, RedisClient
from gateway.store.pipeline import PipelinedRedis
from gateway.store.replication import NotReplicated, Replication
from gateway.tasks import end
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

Argument: TypeAlias = str | bytes | int
Send: TypeAlias = Callable[[Sequence[Argument]], Awaitable[Any]]
T = TypeVar("T")

MOST_COMMANDS = 48
"""At once; more wait their turn, within their deadline. The other connections are for subscriptions and probes."""
VERDICT_WAIT = 0.05
"""From when a doubt began: how long commands wait for the probe, which takes a millisecond where all is well."""
PROBE_INTERVAL = 0.25
PROBE_DEADLINE = 1.0
"""Nobody waits for a probe, and it may have to ask several sentinels or cluster nodes in turn."""
PROBE_KEY = "qpg:probe"
LOOK_INTERVAL = 1.0
"""Between two looks at the replicas, which also find a fault that no request has met."""
REPLICATION_SHARE = 0.8
"""Of the deadline: how long a replica may take, so that there is time left to hear that none did."""

_UNAVAILABLE = (
    OSError,  # includes the TimeoutError of our own deadline
    exceptions.ConnectionError,  # includes refused passwords and LOADING
    exceptions.TimeoutError,
    exceptions.InvalidResponse,
    exceptions.ReadOnlyError,  # a primary that was demoted
    exceptions.OutOfMemoryError,
    exceptions.MasterDownError,
    exceptions.NoPermissionError,  # an ACL user that may not do all that it needs
    exceptions.AskError,  # a slot that moved, perhaps to a node not known yet
    exceptions.TryAgainError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,  # no node reachable, or a slot that no node serves
)
_UNAVAILABLE_REPLY = re.compile(r"(^|caused error: \W*)(BUSY|MISCONF|NOREPLICAS) ")
"""Replies, alone or of a pipeline, that redis-py has no class for: a script runs, disk full, replicas missing."""


_RESET_UNDER_UVLOOP = "the handler is closed"
"""What uvloop says, as a RuntimeError, to a write on a connection that was reset."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent in full only to a server that does not have it (after a restart, flush or failover)."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1; nothing is protected by it.
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, name: str) -> Self:
        """Read the script `name` that lies beside the modules of `package`."""
        return cls(files(package).joinpath(name).read_text(encoding="utf-8"))

    async def __call__(self, redis: RedisClient, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401 - a reply of Redis
        """Run it over `keys`, which must lie in one hash slot; return what it returns."""
        return await self.send(lambda command: redis.execute_command(*command), keys, args)

    async def send(self, send: Send, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401 - a reply of Redis
        """Run it by means of `send`, which sends a command and returns the reply."""
        try:
            return await send(["EVALSHA", self.sha, len(keys), *keys, *args])
        except exceptions.NoScriptError:
            return await send(["EVAL", self.text, len(keys), *keys, *args])


_PROBE = Script('return redis.call("SET", KEYS[1], 1, "PX", 1000)')


class Store:
    """Redis behind a deadline, and a watch over whether it is there."""

    def __init__(self, redis: RedisClient, *, clock: Clock, metrics: Metrics, deadline: float = DEADLINE) -> None:
        self._redis = redis
        self.is_cluster = isinstance(redis, RedisCluster)
        """Whether a command's keys must lie in one slot."""
        self._commands = PipelinedRedis(redis) if isinstance(redis, Redis) else redis
        """What requests use; probes do not, as they would wait behind the very command that they ask about."""
        self._clock = clock
        self._metrics = metrics
        self._deadline = deadline
        self._slots = asyncio.Semaphore(MOST_COMMANDS)
        self._in_doubt = asyncio.Event()
        self._probed = asyncio.Event()
        self._doubted_at = 0.0
        self._up = True
        self._watch: asyncio.Task[None] | None = None
        self._lookout: asyncio.Task[None] | None = None
        self._replication = Replication(clock, wait=REPLICATION_SHARE * deadline)

    @property
    def deadline(self) -> float:
        """Seconds that a request waits for Redis at most."""
        return self._deadline

    @property
    def up(self) -> bool:
        """Whether Redis could be used when last probed; assumed so before `start`."""
        return self._up

    async def start(self) -> None:
        """Probe Redis once, at most a second, and watch it from now on. Redis may be down: that is no failure."""
        self._metrics.redis_up.set(1)
        await self._probe()
        self._watch = asyncio.create_task(self._keep_watch())
        self._lookout = asyncio.create_task(self._look_out())

    async def close(self) -> None:
        """Stop watching and close every connection."""
        await end(self._watch)
        await end(self._lookout)
        self._watch = self._lookout = None
        # Closing can only fail on connections that are broken anyway.
        with suppress(exceptions.RedisError, OSError):
            if isinstance(self._commands, PipelinedRedis):
                await self._commands.close_channel()
            await self._redis.aclose()
        if isinstance(self._redis, Redis) and isinstance(self._redis.connection_pool, SentinelConnectionPool):
            with suppress(exceptions.RedisError, OSError):
                await self._redis.connection_pool.sentinel_manager.aclose()

    async def run(self, command: Callable[[RedisClient], Awaitable[T]]) -> T:
        """Run `command`, which may be several round trips, within the deadline.

        Raises `StorageUnavailable` if Redis did not do it in time, could not, or is known to be down. The command
        may have been carried out all the same. A late reply is never taken for that of another command.
        """
        await self._settle_doubt()
        started = self._clock.monotonic()
        fault: Exception
        try:
            # A connection whose command is cancelled, which is how the deadline ends one, takes no other.
            with KeptCancellation():
                async with asyncio.timeout(self._deadline), self._slots:
                    await self._settle_doubt()  # it may have come up while waiting for a slot
                    return await command(self._commands)
        except _UNAVAILABLE as error:
            fault = error
        except exceptions.ResponseError as error:
            if not _UNAVAILABLE_REPLY.search(str(error)):
                raise
            fault = error
        except RuntimeError as error:
            if _RESET_UNDER_UVLOOP not in str(error):
                raise
            fault = error
        finally:
            self._metrics.redis_command_duration.observe(self._clock.monotonic() - started)
        self._doubt(fault)
        # Outside the `except`, so that the fault, which can hold a command's arguments, is not its context.
        raise StorageUnavailable(retry_after=1)

    async def write(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401 - a reply of Redis
        """Run a script whose effect must not be lost, and return what it returns.

        Where Redis has replicas, one of them has the effect too when this returns (`WAIT 1`). Raises
        `StorageUnavailable` as `run` does, also if no replica had it in time; it may have been carried out then.
        """
        try:
            return await self.run(
                lambda redis: script.send(lambda command: self._replication.send(redis, keys[0], command), keys, args)
            )
        except NotReplicated:
            raise StorageUnavailable(retry_after=1) from None

    async def _settle_doubt(self) -> None:
        """Return if Redis is not in doubt, or no longer after a short wait; else raise."""
        if not self._in_doubt.is_set():
            return
        patience = self._doubted_at + VERDICT_WAIT - self._clock.monotonic()
        if self._up and patience > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._probed.wait()
        if self._in_doubt.is_set():
            raise StorageUnavailable(retry_after=1)

    def _doubt(self, fault: Exception) -> None:
        if self._watch is not None and not self._in_doubt.is_set():
            log.debug("redis in doubt", fault=type(fault).__name__)
            self._doubted_at = self._clock.monotonic()
            self._probed.clear()
            self._in_doubt.set()

    async def _keep_watch(self) -> None:
        while True:
            await self._in_doubt.wait()
            await self._probe()
            if not self._up:
                await self._clock.sleep(PROBE_INTERVAL)

    async def _look_out(self) -> None:
        while True:
            await self._clock.sleep(LOOK_INTERVAL)
            try:
                await self.run(self._replication.look)
                if self._replication.missing:
                    await self._probe()  # anew through the sentinels, who may have named another primary
            except StorageUnavailable:
                pass  # the watch has it
            except Exception as error:
                self._doubt(error)  # whatever it is, the probe meets it too, and tells

    async def _probe(self) -> None:
        fault = await self._fault()
        was_up, self._up = self._up, fault is None
        self._metrics.redis_up.set(self._up)
        if self._up:
            self._in_doubt.clear()
        else:
            self._in_doubt.set()
        self._probed.set()
        if was_up and not self._up:
            log.warning("redis down, going on without it", fault=fault)
        elif self._up and not was_up:
            log.info("redis is back")

    async def _fault(self) -> str | None:
        """Return the name of what is wrong with Redis, or None."""
        try:
            with KeptCancellation():
                async with asyncio.timeout(PROBE_DEADLINE):
                    await self._try()
        except Exception as error:
            # Whatever it is, Redis cannot be used, and the watch must go on: it is the only way back.
            return type(error).__name__
        return None

    async def _try(self) -> None:
        # Idle connections may lead to a server that was replaced; after a failover that is all of them. A cluster's
        # client sees to its own when a primary does not answer.
        if isinstance(self._commands, PipelinedRedis):
            await self._commands.renew()
        await self._replication.look(self._redis)
        # A write, because a server that is read-only, full or without quorum still answers ROLE; and in a script,
        # because that is what nearly everything else is.
        await _PROBE(self._redis, [PROBE_KEY], [])
