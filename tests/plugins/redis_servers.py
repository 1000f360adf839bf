"""Redis as production has it: servers on TCP ports, with replicas, with sentinels, as a cluster; for tests to hurt.

Valkey plays every part but one: its wheel is built without TLS, for which there is Debian's `redis-server`. Where
the words of a server's errors matter, tests take both.
"""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.retry import Retry

from gateway.clock import Clock, SystemClock
from gateway.errors import StorageUnavailable
from gateway.store import tether
from gateway.store.client import DEADLINE, connect
from gateway.store.embedded import find_server
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics

LOOPBACK = "127.0.0.1"
PATIENCE = 15.0
"""Seconds that anything here may take on a busy machine."""
SERVICE = "main"
"""What sentinels call the primary that they watch."""
LOGIN = "gateway:a%3Ab"
"""The user that every server has beside the default one, as in a URL."""
PERMISSIONS = (
    "~qpg:* +evalsha +eval +get +set +del +type +pttl +pexpire"
    " +zadd +zrem +zcard +zscore +zrange +zrevrange +zrangebyscore +zremrangebyscore"
    " +hget +hset +hsetnx +hdel +hlen +time +role +wait +select"
)
"""All that the gateway may do on a server, as `ACL SETUSER` takes it; `select` only if the database is not 0."""
CLUSTER_PERMISSIONS = "+cluster|slots +command +asking"
"""What it needs besides on a cluster's nodes."""
SENTINEL_PERMISSIONS = "+sentinel|masters"
"""And on sentinels, nothing else."""


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until something is so, and fail by its name if it never is. A server that refuses is not there yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


async def until_back(store: Store) -> float:
    """Wait until the store does a write again; return the seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.run(lambda client: client.set("qpg:test", 1, px=60_000))
            except StorageUnavailable:
                await asyncio.sleep(0.01)
            else:
                return time.monotonic() - started


@contextlib.asynccontextmanager
async def running(
    url: str, *, deadline: float = DEADLINE, clock: Clock | None = None, metrics: Metrics | None = None
) -> AsyncIterator[Store]:
    """A store that watches the Redis at `url`."""
    store = Store(connect(url), clock=clock or SystemClock(), metrics=metrics or Metrics(), deadline=deadline)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def unwatched(url: str) -> AsyncIterator[Store]:
    """A store that tries every command, since nothing tells it that Redis is down."""
    store = Store(connect(url), clock=SystemClock(), metrics=Metrics())
    try:
        yield store
    finally:
        await store.close()


class RedisServer:
    """A server process on a TCP port. It keeps nothing on disk unless told to, and dies with the tests."""

    def __init__(self, folder: Path, port: int, command: list[object]) -> None:
        self.folder = folder
        self.port = port
        self._command = [str(word) for word in command]
        self.start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{LOGIN}@{self.address}"

    def start(self) -> None:
        """Run it, for the first time or again; `ready` waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def ready(self) -> "RedisServer":
        until(lambda: self.ask("PING"), f"{self.address} answers")
        return self

    def client(self, **options: Any) -> redis.Redis:
        """Return a blocking client of redis-py that tries once, to look from outside; use it in a `with`."""
        return redis.Redis(host=LOOPBACK, port=self.port, retry=Retry(NoBackoff(), 0), **options)

    def ask(self, *command: object) -> Any:
        """Send one command, on a connection of its own, and return the reply."""
        with self.client() as client:
            return client.execute_command(*map(str, command))

    def pause(self) -> None:
        """Freeze it: connections open and stay open, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Replicated:
    """A primary with replicas, and the sentinels that would replace it."""

    primary: RedisServer
    replicas: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        addresses = ",".join(sentinel.address for sentinel in self.sentinels)
        name, _, password = LOGIN.partition(":")
        return f"redis+sentinel://{LOGIN}@{addresses}/{SERVICE}/1?sentinel_username={name}&sentinel_password={password}"


@dataclass(frozen=True)
class Cluster:
    """Primaries that share all slots evenly, in order, and a replica of each."""

    primaries: list[RedisServer]
    replicas: list[RedisServer]

    @property
    def url(self) -> str:
        return f"redis+cluster://{LOGIN}@{','.join(node.address for node in self.primaries)}"

    def serving(self, key: str) -> int:
        """Return which primary was given the slot of a key."""
        return key_slot(key.encode()) * len(self.primaries) // REDIS_CLUSTER_HASH_SLOTS


class RedisServers:
    """Starts servers of one kind, which end with the test."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._servers: list[RedisServer] = []
        # Below the ports that the system hands to clients, one of whom could be faster than the server.
        self._ports = itertools.count(random.randrange(20_000, 30_000))

    def free_port(self) -> int:
        """Return a port that nothing listens on, another one each time."""
        for port in self._ports:
            with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
                return port
        raise AssertionError("there is always another")

    def start(self, *words: object, permissions: str = PERMISSIONS, configuration: str = "") -> RedisServer:
        """Start a server with more words on its command line; `ready` waits until it answers."""
        port = self.free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        file = folder / "server.conf"
        file.write_text(f"user gateway on >a:b -@all {permissions}\n{configuration}")
        tied = [sys.executable, "-I", "-S", tether.__file__, os.getpid()]
        plain = ["--port", port, "--bind", LOOPBACK, "--dir", folder]
        self._servers.append(RedisServer(folder, port, [*tied, self._program, file, *plain, *words]))
        return self._servers[-1]

    def stop(self) -> None:
        for server in self._servers:
            server.kill()

    def plain(self, *words: object, permissions: str = PERMISSIONS) -> RedisServer:
        """Start a server that keeps nothing on disk."""
        return self.start("--save", "", *words, permissions=permissions)

    def replicated(self, *, replicas: int, sentinels: int = 0) -> Replicated:
        """Start a primary with replicas and sentinels, who all know of each other when this returns."""
        at_once = ("--repl-diskless-sync-delay", 0)
        primary = self.plain(*at_once).ready()
        followers = [self.plain(*at_once, "--replicaof", LOOPBACK, primary.port) for _ in range(replicas)]
        until(lambda: _followers(primary) == replicas, "the replicas follow")
        watch = (
            f"sentinel monitor {SERVICE} {LOOPBACK} {primary.port} {sentinels // 2 + 1}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 1000\n"
        )
        watchers = [
            self.start("--sentinel", permissions=SENTINEL_PERMISSIONS, configuration=watch) for _ in range(sentinels)
        ]

        def acquainted(watcher: RedisServer) -> bool:
            with watcher.client() as client:
                state = client.sentinel_master(SERVICE)
            return (state["num-slaves"], state["num-other-sentinels"]) == (replicas, sentinels - 1)

        until(lambda: all(map(acquainted, watchers)), "the sentinels know of all")
        return Replicated(primary, followers, watchers)

    def cluster(self, *, primaries: int, replicas: bool) -> Cluster:
        """Start a cluster, which serves all slots when this returns."""
        nodes = [self._node() for _ in range(primaries * (2 if replicas else 1))]
        for node, _ in nodes:
            node.ready()
        servers = [node for node, _ in nodes]
        leaders, followers = servers[:primaries], servers[primaries:]
        slots = REDIS_CLUSTER_HASH_SLOTS
        for number, leader in enumerate(leaders):
            first, end = -(-slots * number // primaries), -(-slots * (number + 1) // primaries)
            leader.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            leader.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in nodes[1:]:
            servers[0].ask("CLUSTER", "MEET", LOOPBACK, node.port, bus)
        until(lambda: all(_acquaintances(s) == len(servers) for s in servers), "the nodes know each other")
        for leader, follower in zip(leaders, followers, strict=False):
            follower.ask("CLUSTER", "REPLICATE", leader.ask("CLUSTER", "MYID").decode())
        until(lambda: all(_followers(s) == replicas for s in leaders), "every primary has its replica")
        until(lambda: all(b"cluster_state:ok" in s.ask("CLUSTER", "INFO") for s in servers), "the cluster serves")
        until(lambda: all(_layout(s) == _layout(servers[0]) for s in servers), "all see the same layout")
        return Cluster(leaders, followers)

    def _node(self) -> tuple[RedisServer, int]:
        """Start a node; return it and the port of its cluster bus."""
        bus = self.free_port()
        words = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", 1000]
        words += ["--repl-diskless-sync-delay", 0]
        return self.plain(*words, permissions=f"{PERMISSIONS} {CLUSTER_PERMISSIONS}"), bus


def _followers(primary: RedisServer) -> int:
    """Return how many replicas of a primary confirm a write; a new one of Valkey's does after a second."""
    with primary.client() as client:
        client.flushall()  # a write that needs no key, of which a cluster's node may have only some
        return client.wait(len(client.role()[2]), 100)


def _acquaintances(server: RedisServer) -> int:
    """Return how many nodes one has met, itself included."""
    return sum(b"handshake" not in line for line in server.ask("CLUSTER", "NODES").splitlines())


def _layout(server: RedisServer) -> list[tuple[int, int, list[int]]]:
    """Return the slots from first to last and the ports that serve them, primary first, as one node sees it."""
    ranges = server.ask("CLUSTER", "SLOTS")
    return sorted((first, last, [port for _, port, *_ in nodes]) for first, last, *nodes in ranges)


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[RedisServers]:
    """Starts Valkey servers, or `redis-server` where there is no Valkey."""
    servers = RedisServers(find_server(), tmp_path)
    yield servers
    servers.stop()


@pytest.fixture
def debian_redis(tmp_path: Path) -> Iterator[RedisServers]:
    """Starts servers of Debian's package: built with TLS, and an older Redis than Valkey began with."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path / "debian"
    folder.mkdir()
    servers = RedisServers(program, folder)
    yield servers
    servers.stop()


@pytest.fixture(params=["valkey", "redis"])
def each_redis(request: pytest.FixtureRequest) -> RedisServers:
    """Runs the test twice: on Valkey and on Debian's Redis, whose errors read differently."""
    return request.getfixturevalue("redis_servers" if request.param == "valkey" else "debian_redis")
