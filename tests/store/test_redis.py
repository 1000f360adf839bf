"""The store against a real Valkey that is killed and frozen; `test_production_*.py` has the other faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from redis import exceptions

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.store.client import connect
from gateway.store.redis import MOST_COMMANDS, Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.timing import quickest
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]

PATIENCE = 5.0
"""Seconds that a recovery may take on a busy machine; it takes 0.3."""


@asynccontextmanager
async def running(url: str, *, deadline: float = 0.1, metrics: Metrics | None = None) -> AsyncIterator[Store]:
    store = Store(connect(url), clock=SystemClock(), metrics=metrics or Metrics(), deadline=deadline)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that in time")


async def until_back(store: Store) -> None:
    """Wait until a command succeeds: being up can be a moment older than a doubt."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.run(lambda redis: redis.ping())
            except StorageUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def refused(store: Store) -> float:
    """Run a command that must be refused; return how long that took, in seconds."""
    started = time.perf_counter()
    with pytest.raises(StorageUnavailable) as caught:
        await store.run(lambda redis: redis.set("key", "value"))
    assert caught.value.retry_after == 1
    assert caught.value.__context__ is None
    return time.perf_counter() - started


async def test_commands_run_and_are_timed(valkey: ValkeyServer) -> None:
    metrics = Metrics()
    async with running(valkey.url, metrics=metrics) as store:
        assert store.up
        await store.run(lambda redis: redis.set("a", "1"))
        assert await store.run(lambda redis: redis.get("a")) == b"1"
    assert metrics.registry.get_sample_value("gateway_redis_up") == 1
    assert metrics.registry.get_sample_value("gateway_redis_command_duration_seconds_count") == 2


async def test_starting_without_redis_is_no_failure_and_it_is_found_later(
    valkey_factory: ValkeyFactory,
) -> None:
    server, metrics = valkey_factory(), Metrics()
    server.kill()
    async with running(server.url, metrics=metrics) as store:
        assert not store.up
        assert metrics.registry.get_sample_value("gateway_redis_up") == 0
        assert await quickest(lambda: refused(store), under=0.05) < 0.05
        server.restart()
        await until(lambda: store.up)
        assert await store.run(lambda redis: redis.get("key")) is None
        assert metrics.registry.get_sample_value("gateway_redis_up") == 1


async def test_a_killed_server_is_noticed_at_once_and_found_again(valkey_factory: ValkeyFactory) -> None:
    server, metrics = valkey_factory(), Metrics()
    with structlog.testing.capture_logs() as lines:
        async with running(server.url, metrics=metrics) as store:
            server.kill()
            assert await refused(store) < PATIENCE
            await until(lambda: not store.up)
            assert metrics.registry.get_sample_value("gateway_redis_up") == 0
            server.restart()
            await until_back(store)
            assert store.up
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == [
        "redis down, going on without it",
        "redis is back",
    ]


async def test_a_frozen_server_costs_each_request_one_deadline_and_later_ones_nothing(
    valkey_factory: ValkeyFactory,
) -> None:
    server = valkey_factory()
    async with running(server.url) as store:

        async def freeze() -> float:
            server.resume()
            await until_back(store)
            server.pause()
            waits = await asyncio.gather(*(refused(store) for _ in range(3 * MOST_COMMANDS)))
            assert max(waits) > 0.05
            return max(waits)

        assert await quickest(freeze, under=0.3) < 0.3
        assert await quickest(lambda: refused(store), under=0.05) < 0.05
        await until(lambda: not store.up)
        assert await quickest(lambda: refused(store), under=0.05) < 0.05
        server.resume()
        await until_back(store)


async def test_no_late_reply_is_taken_for_another_commands(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    with server.client() as client:
        for number in range(50):
            client.set(f"key-{number}", number)
    # A deadline under the socket's own timeout: it is our cancellation that must discard the connections.
    async with running(server.url, deadline=0.05) as store:

        async def read(number: int) -> bytes | None:
            value: bytes | None = await store.run(lambda redis: redis.get(f"key-{number}"))
            return value

        async def read_in_time(number: int) -> bytes | None:
            """Read again what was late: on a machine that is busy 50 ms are soon over."""
            while True:
                try:
                    return await read(number)
                except StorageUnavailable:
                    await until_back(store)

        for _ in range(3):
            assert await asyncio.gather(*(read_in_time(n) for n in range(10))) == [b"%d" % n for n in range(10)]
            server.pause()
            outcomes = await asyncio.gather(*(read(n) for n in range(10)), return_exceptions=True)
            assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
            server.resume()
            await until_back(store)
            for number in range(49, -1, -1):
                assert await read_in_time(number) == b"%d" % number


async def test_a_connection_that_was_reset_under_uvloop_is_a_fault_of_redis(valkey: ValkeyServer) -> None:
    async def reset(_client: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async def bug(_client: object) -> None:
        raise RuntimeError("something else")

    store = Store(connect(valkey.url), clock=SystemClock(), metrics=Metrics())
    with pytest.raises(StorageUnavailable):
        await store.run(reset)
    with pytest.raises(RuntimeError):
        await store.run(bug)
    await store.close()


async def test_a_cancelled_request_leaves_no_reply_behind(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as store:
        for _ in range(20):
            task = asyncio.create_task(store.run(lambda redis: redis.echo("late")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await store.run(lambda redis: redis.echo("mine")) == b"mine"
        assert store.up


async def test_a_cancelled_request_ends_as_one_wherever_it_was(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as store:
        for ticks in range(200):
            task = asyncio.create_task(store.run(lambda redis: redis.echo("late")))
            for _ in range(ticks % 20):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert await store.run(lambda redis: redis.echo("mine")) == b"mine"


async def test_one_slow_command_is_refused_without_declaring_redis_down(valkey: ValkeyServer) -> None:
    with structlog.testing.capture_logs() as lines:
        async with running(valkey.url) as store:
            with pytest.raises(StorageUnavailable):
                await store.run(lambda redis: redis.blpop(["nothing"], timeout=1))
            await until_back(store)
            assert store.up
    assert [line["event"] for line in lines] == ["redis in doubt"]


async def test_others_do_not_fail_because_one_command_was_slow(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as store:

        async def after_a_slow_one() -> bool:
            with pytest.raises(StorageUnavailable):
                await store.run(lambda redis: redis.blpop(["nothing"], timeout=1))
            try:
                return await store.run(lambda redis: redis.exists("key")) == 0
            except StorageUnavailable:
                await until_back(store)
                return False

        assert any([await after_a_slow_one() for _ in range(5)]), "the verdict takes a millisecond, or more if busy"


async def test_a_store_that_was_not_started_tries_every_command(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    store = Store(connect(server.url), clock=SystemClock(), metrics=Metrics())
    server.kill()
    assert await refused(store) < PATIENCE
    assert store.up
    server.restart()
    assert await store.run(lambda redis: redis.ping())
    await store.close()


async def test_a_refusal_inside_a_pipeline_counts_as_unavailable(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
    store = Store(connect(server.url), clock=SystemClock(), metrics=Metrics())
    with pytest.raises(StorageUnavailable):
        await store.run(lambda redis: redis.pipeline(transaction=False).set("a", 1).get("a").execute())
    await store.close()


async def test_our_own_mistakes_propagate_and_raise_no_doubt(valkey: ValkeyServer) -> None:
    async with running(valkey.url) as store:
        await store.run(lambda redis: redis.set("text", "x"))
        with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
            await store.run(lambda redis: redis.lpush("text", "y"))
        with pytest.raises(ZeroDivisionError):
            await store.run(lambda _: 1 // 0)
        assert await store.run(lambda redis: redis.get("text")) == b"x"


async def test_a_wrong_password_is_unavailable_not_fatal(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    with server.client() as client:
        client.config_set("requirepass", "right")
        async with running(f"{server.url}?password=wrong") as store:
            assert not store.up
        async with running(f"{server.url}?password=right") as store:
            assert store.up


async def test_a_script_survives_a_restart_and_a_flush(valkey_factory: ValkeyFactory) -> None:
    server, script = valkey_factory(), Script("return {KEYS[1], ARGV[1]}")
    async with running(server.url) as store:
        for disturb in (server.flush, server.flush, server.restart):
            for _ in range(2):
                await until_back(store)
                assert await store.run(lambda redis: script(redis, ["k"], [7])) == [b"k", b"7"]
            disturb()


async def test_closing_is_quiet_when_the_server_is_gone_or_frozen(valkey_factory: ValkeyFactory) -> None:
    gone, frozen = valkey_factory(), valkey_factory()
    async with running(gone.url) as store:
        gone.kill()
    async with running(frozen.url) as other:
        frozen.pause()
        started = time.perf_counter()
    assert time.perf_counter() - started < 1
    for closed in (store, other):
        await closed.close()
