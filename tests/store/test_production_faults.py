"""One Redis server, of either kind, and everything that befalls one: what it costs, and that it heals by itself."""

import asyncio
import contextlib
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from gateway.access.limits import Limits, client_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.quota import Quota
from gateway.store.client import DEADLINE
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.redis_servers import PATIENCE, RedisServer, RedisServers, running, until, until_back, unwatched

Fault = Callable[[RedisServer], AbstractContextManager[None]]

SCHEDULING = 0.05
"""Seconds by which a busy machine may be late."""
INCREMENT = Script(
    """
    local n = (redis.call("GET", KEYS[1]) or 0) + 1
    redis.call("SET", KEYS[1], n, "PX", 60000)
    return n
    """
)
LIMIT = client_limit("orders", Quota.parse("600/minute"))


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextmanager
def dead(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    """Answers `OOM` to whatever needs memory."""
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", 1)
    yield
    server.ask("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def demoted(server: RedisServer) -> Iterator[None]:
    """Answers `READONLY`: another is primary now, and clients are still connected to this one."""
    server.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@contextmanager
def alone(server: RedisServer) -> Iterator[None]:
    """Answers `NOREPLICAS`."""
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """Answers nothing, then `BUSY`, while another's script runs on."""
    server.ask("CONFIG", "SET", "busy-reply-threshold", 20)

    def loop() -> None:
        with contextlib.suppress(redis.RedisError):
            server.ask("EVAL", "while true do end", 0)

    thread = threading.Thread(target=loop)
    thread.start()
    until(lambda: "BUSY" in _error(server, "PING"), "the script runs")
    yield
    server.ask("SCRIPT", "KILL")
    thread.join()


@contextmanager
def unable_to_save(server: RedisServer) -> Iterator[None]:
    """Answers `MISCONF`: it was to save to a disk that fails."""
    shutil.rmtree(server.folder)
    server.ask("CONFIG", "SET", "save", "3600 1")
    server.ask("BGSAVE")
    until(lambda: "MISCONF" in _error(server, "SET", "qpg:a", 1), "saving has failed")
    yield
    server.ask("CONFIG", "SET", "save", "")


@contextmanager
def crowded(server: RedisServer) -> Iterator[None]:
    """Refuses connections, as it has as many clients as it may."""
    with server.client() as client:
        most = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", 1)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        client.config_set("maxclients", most)


@contextmanager
def locked(server: RedisServer) -> Iterator[None]:
    """Has another password for the gateway than it knows."""
    server.ask("ACL", "SETUSER", "gateway", "resetpass", ">another")
    server.ask("CLIENT", "KILL", "USER", "gateway")
    yield
    server.ask("ACL", "SETUSER", "gateway", ">a:b")


@contextmanager
def forbidden(server: RedisServer) -> Iterator[None]:
    """Answers `NOPERM` to scripts."""
    server.ask("ACL", "SETUSER", "gateway", "-evalsha")
    yield
    server.ask("ACL", "SETUSER", "gateway", "+evalsha")


def _error(server: RedisServer, *command: object) -> str:
    try:
        server.ask(*command)
    except redis.RedisError as error:
        return str(error)
    return ""


FAULTS = [frozen, dead, full, demoted, alone, busy, unable_to_save, crowded, locked, forbidden]


async def waits(store: Store, *, tries: int = 5) -> list[float]:
    """Try commands that must all be refused; return the seconds that each took."""
    taken = []
    for _ in range(tries):
        started = time.perf_counter()
        with pytest.raises(StorageUnavailable):
            await store.run(lambda client: INCREMENT(client, ["qpg:test:n"], []))
        taken.append(time.perf_counter() - started)
    return taken


async def until_down(store: Store) -> None:
    async with asyncio.timeout(PATIENCE):
        while store.up:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_fault_holds_a_command_longer_than_the_deadline(each_redis: RedisServers, fault: Fault) -> None:
    server = each_redis.plain().ready()
    async with unwatched(server.url) as store:
        await store.run(lambda client: client.get("qpg:test:n"))
        with fault(server):
            taken = await waits(store)
    assert statistics.median(taken) <= DEADLINE + SCHEDULING, taken


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_leaves_limits_to_the_local_share_and_heals_by_itself(
    redis_servers: RedisServers, fault: Fault
) -> None:
    server, metrics = redis_servers.plain().ready(), Metrics()
    async with running(server.url, metrics=metrics) as store:
        local = LocalLimiter(clock=SystemClock(), share=lambda: 1)
        limiter = RedisLimiter(store, local, clock=SystemClock(), metrics=metrics)
        assert (await limiter.take(Limits(LIMIT))).store == "redis"
        with fault(server):
            assert {(await limiter.take(Limits(LIMIT))).store for _ in range(20)} == {"local"}
            await until_down(store)
        await until_back(store)
        assert (await limiter.take(Limits(LIMIT))).store == "redis"


async def test_a_slow_redis_counts_as_none(redis_servers: RedisServers) -> None:
    server = redis_servers.plain().ready()
    with ChaosProxy(server.url) as proxy:
        async with unwatched(proxy.url("redis")) as store, running(proxy.url("redis")) as watching:
            proxy.latency(0.2)
            assert statistics.median(await waits(store)) <= DEADLINE + SCHEDULING
            await waits(watching)
            proxy.heal()
            await until_back(watching)


async def test_a_redis_that_never_answers_counts_as_none(redis_servers: RedisServers) -> None:
    server = redis_servers.plain().ready()
    with ChaosProxy(server.url) as proxy:
        async with unwatched(proxy.url("redis")) as store, running(proxy.url("redis")) as watching:
            proxy.half_open()
            assert statistics.median(await waits(store)) <= DEADLINE + SCHEDULING
            await waits(watching)
            proxy.heal()
            await until_back(watching)


async def test_a_flush_of_keys_and_scripts_fails_nothing(each_redis: RedisServers) -> None:
    server = each_redis.plain().ready()
    async with running(server.url, deadline=2) as store:
        for _ in range(3):
            for _ in range(2):
                await store.write(INCREMENT, ["qpg:test:written"], [])
                await store.run(lambda client: INCREMENT(client, ["qpg:test:run"], []))
            assert server.ask("MGET", "qpg:test:written", "qpg:test:run") == [b"2", b"2"]
            server.ask("FLUSHALL")
            server.ask("SCRIPT", "FLUSH")
        assert store.up


async def test_a_restart_with_data_forgets_nothing_that_was_answered(each_redis: RedisServers) -> None:
    server = each_redis.start("--save", "", "--appendonly", "yes").ready()
    async with running(server.url, deadline=2) as store:
        for _ in range(10):
            await store.write(INCREMENT, ["qpg:test:n"], [])
        server.kill()
        server.start()
        await until_back(store)
        assert await store.write(INCREMENT, ["qpg:test:n"], []) == 11


async def test_a_server_that_still_loads_its_data_counts_as_none_until_it_has(each_redis: RedisServers) -> None:
    slowly = ("--key-load-delay", 1000, "--loading-process-events-interval-bytes", 1024, "--rdbcompression", "no")
    server = each_redis.start("--save", "", *slowly).ready()
    server.ask("EVAL", 'for n = 1, 2000 do redis.call("SET", "qpg:" .. n, string.rep("x", 100)) end', 0)
    server.ask("SAVE")
    async with unwatched(server.url) as store, running(server.url) as watching:
        server.kill()
        server.start()
        until(lambda: "loading" in _error(server, "PING"), "it loads")
        assert statistics.median(await waits(store)) <= DEADLINE + SCHEDULING
        await waits(watching)
        await until_back(watching)
        assert await watching.run(lambda client: client.get("qpg:2000")) == b"x" * 100
