"""Redis behind a deadline: what is asked, how long anyone waits, and what happens when it is not there.

A request waits for Redis at most 100 ms in all (interface §7). One rule serves every kind of fault: a server that
is gone, frozen, loading, read-only, full or without quorum.

1. The command that met the fault raises `StorageUnavailable`, and Redis is *in doubt*.
2. While it is in doubt every command raises at once: a request that was caught by the fault does not wait again,
   and a flood does not pile up.
3. A probe gives a second opinion, at once. If it succeeds the doubt is over, typically after a millisecond: one
   slow command is not an outage, and nothing else has noticed. If it fails Redis is *down*, which is logged and
   shown in `gateway_redis_up`, and the probe goes on every quarter of a second until it succeeds.

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
from pydantic import SecretStr
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.store.address import Address
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

RedisClient: TypeAlias = Redis | RedisCluster
T = TypeVar("T")

DEADLINE = 0.1
"""Seconds that a request may wait for Redis (interface §7), and that a socket may."""
MOST_CONNECTIONS = 64
"""To one server."""
MOST_COMMANDS = 48
"""At once; more wait their turn, within their deadline. The other connections are for subscriptions and probes."""
PROBE_INTERVAL = 0.25
PROBE_DEADLINE = 1.0
"""Nobody waits for a probe, and it may have to ask several sentinels or cluster nodes in turn."""
PROBE_KEY = "qpg:probe"

_UNAVAILABLE = (
    OSError,  # includes the TimeoutError of our own deadline
    exceptions.ConnectionError,  # includes refused passwords and LOADING
    exceptions.TimeoutError,
    exceptions.InvalidResponse,
    exceptions.ReadOnlyError,  # a primary that was demoted
    exceptions.OutOfMemoryError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,  # no node reachable, or a slot that no node serves
)
_UNAVAILABLE_REPLY = re.compile(r"(^|caused error: \W*)(BUSY|MISCONF|NOREPLICAS) ")
"""Replies, alone or of a pipeline, that redis-py has no class for: a script runs, disk full, replicas missing."""


def connect(url: SecretStr | str) -> RedisClient:
    """Make a client for `redis://`, `rediss://`, `unix://`, `redis+cluster://` or `redis+sentinel://`.

    Nothing is sent until the first command. Raises `ValueError`, without the URL in it, if it cannot be read.
    The client never retries: redis-py's default waits 3.3 s on a dead server.
    """
    address = Address.parse(url)
    sockets: dict[str, Any] = {
        "socket_timeout": DEADLINE,
        "socket_connect_timeout": DEADLINE,
        "retry": Retry(NoBackoff(), 0),
        # RESP2: one round trip less to connect, and no server notices that would stretch our timeouts.
        "protocol": 2,
    }
    options: dict[str, Any] = {
        **sockets,
        "username": address.username,
        "password": address.password.get_secret_value() if address.password else None,
        "max_connections": MOST_CONNECTIONS,
    }
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        # The configured names stay the way in: the addresses behind them change when a cluster is restarted.
        return RedisCluster(startup_nodes=nodes, dynamic_startup_nodes=False, **options)
    options["db"] = address.db
    if address.scheme == "redis+sentinel":
        login = {name: address.options.get(f"sentinel_{name}") for name in ("username", "password")}
        sentinels = Sentinel(address.hosts, sentinel_kwargs={**sockets, **login}, **options)  # type: ignore[no-untyped-call]
        primary: Redis = sentinels.master_for(address.service)
        return primary
    if address.scheme == "unix":
        return Redis.from_pool(ConnectionPool(UnixDomainSocketConnection, path=address.path, **options))
    [(host, port)] = address.hosts
    kind = SSLConnection if address.scheme == "rediss" else Connection
    options.update(address.options)
    return Redis.from_pool(ConnectionPool(kind, host=host, port=port, **options))


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

    async def __call__(self, redis: RedisClient, keys: Sequence[str], args: Sequence[str | int]) -> Any:  # noqa: ANN401
        """Run it over `keys`, which must lie in one hash slot; return what it returns."""
        try:
            return await redis.evalsha(self.sha, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            return await redis.eval(self.text, len(keys), *keys, *args)


class Store:
    """Redis behind a deadline, and a watch over whether it is there."""

    def __init__(self, redis: RedisClient, *, clock: Clock, metrics: Metrics, deadline: float = DEADLINE) -> None:
        self._redis = redis
        self._clock = clock
        self._metrics = metrics
        self._deadline = deadline
        self._slots = asyncio.Semaphore(MOST_COMMANDS)
        self._in_doubt = asyncio.Event()
        self._up = True
        self._watch: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether Redis could be used when last probed; assumed so before `start`."""
        return self._up

    async def start(self) -> None:
        """Probe Redis once, at most a second, and watch it from now on. Redis may be down: that is no failure."""
        self._metrics.redis_up.set(1)
        await self._probe()
        self._watch = asyncio.create_task(self._keep_watch())

    async def close(self) -> None:
        """Stop watching and close every connection."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        # Closing can only fail on connections that are broken anyway.
        with suppress(exceptions.RedisError, OSError):
            await self._redis.aclose()
        if isinstance(self._redis, Redis) and isinstance(self._redis.connection_pool, SentinelConnectionPool):
            with suppress(exceptions.RedisError, OSError):
                await self._redis.connection_pool.sentinel_manager.aclose()

    async def run(self, command: Callable[[RedisClient], Awaitable[T]]) -> T:
        """Run `command`, which may be several round trips, within the deadline.

        Raises `StorageUnavailable` if Redis did not do it in time, could not, or is known to be down. The command
        may have been carried out all the same. A connection whose reply was not read is closed, so that a late
        reply is never taken for that of another command.
        """
        self._refuse_if_in_doubt()
        started = self._clock.monotonic()
        fault: Exception
        try:
            # redis-py closes a connection whose command is cancelled, which is how the deadline ends one.
            async with asyncio.timeout(self._deadline), self._slots:
                self._refuse_if_in_doubt()  # it may have come up while waiting for a slot
                return await command(self._redis)
        except _UNAVAILABLE as error:
            fault = error
        except exceptions.ResponseError as error:
            if not _UNAVAILABLE_REPLY.search(str(error)):
                raise
            fault = error
        finally:
            self._metrics.redis_command_duration.observe(self._clock.monotonic() - started)
        self._doubt(fault)
        # Outside the `except`, so that the fault, which can hold a command's arguments, is not its context.
        raise StorageUnavailable(retry_after=1)

    async def write(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:  # noqa: ANN401
        """Run a script whose effect must not be lost, and return what it returns.

        Where Redis has replicas, one of them has the effect too when this returns (`WAIT 1`). Raises
        `StorageUnavailable` as `run` does, also if no replica had it in time; it may have been carried out then.
        """
        return await self.run(lambda redis: script(redis, keys, args))

    def _refuse_if_in_doubt(self) -> None:
        if self._in_doubt.is_set():
            raise StorageUnavailable(retry_after=1)

    def _doubt(self, fault: Exception) -> None:
        if self._watch is not None and not self._in_doubt.is_set():
            log.debug("redis in doubt", fault=type(fault).__name__)
            self._in_doubt.set()

    async def _keep_watch(self) -> None:
        while True:
            await self._in_doubt.wait()
            await self._probe()
            if not self._up:
                await self._clock.sleep(PROBE_INTERVAL)

    async def _probe(self) -> None:
        fault = await self._fault()
        was_up, self._up = self._up, fault is None
        self._metrics.redis_up.set(self._up)
        if self._up:
            self._in_doubt.clear()
        else:
            self._in_doubt.set()
        if was_up and not self._up:
            log.warning("redis down, going on without it", fault=fault)
        elif self._up and not was_up:
            log.info("redis is back")

    async def _fault(self) -> str | None:
        """Return the name of what is wrong with Redis, or None."""
        try:
            async with asyncio.timeout(PROBE_DEADLINE):
                # Idle connections may lead to a server that was replaced; after a failover that is all of them.
                if isinstance(self._redis, RedisCluster):
                    await self._redis.ping(target_nodes=RedisCluster.PRIMARIES)
                else:
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                # A write, because a server that is read-only, full or without quorum still answers PING.
                await self._redis.set(PROBE_KEY, 1, px=1000)
        except Exception as error:
            # Whatever it is, Redis cannot be used, and the watch must go on: it is the only way back.
            return type(error).__name__
        return None
