"""A Redis that is slow but well within its deadline: who asks while another waits is no worse off for it."""

import asyncio
import time

import pytest

from gateway.access.limits import Limits, client_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.clock import SystemClock
from gateway.quota import Quota
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.chaos_proxy import ChaosProxy

DEADLINE = 0.4
"""Seconds: longer than the gateway's own, so that a machine that is busy for a moment is not the reason."""
LATENCY = 0.85 * DEADLINE


@pytest.fixture
async def slow(valkey):
    with ChaosProxy(valkey.url) as proxy:
        metrics, clock = Metrics(), SystemClock()
        store = Store(connect(proxy.url("redis"), deadline=DEADLINE), clock=clock, metrics=metrics, deadline=DEADLINE)
        await store.start()
        limiter = RedisLimiter(store, LocalLimiter(clock, lambda: 1), clock=clock, metrics=metrics)
        await limiter.take(Limits(client_limit("first", Quota(5, 60))))  # the script is known from now on
        proxy.latency(LATENCY)
        yield store, limiter
        await store.close()


async def test_commands_one_after_the_other_all_have_their_reply(slow):
    store, _ = slow

    async def ask(number: int) -> object:
        await asyncio.sleep(number * 0.01)
        return await store.run(lambda redis: redis.execute_command("ECHO", number))

    assert await asyncio.gather(*map(ask, range(20))) == [b"%d" % number for number in range(20)]


async def test_nobody_waits_longer_for_a_limit_than_the_deadline(slow):
    _, limiter = slow

    async def take(number: int) -> tuple[float, str]:
        await asyncio.sleep(number * 0.013)
        started = time.monotonic()
        decision = await limiter.take(Limits(client_limit(f"client-{number}", Quota(5, 60))))
        return time.monotonic() - started, decision.store

    found = await asyncio.gather(*map(take, range(20)))
    assert max(seconds for seconds, _ in found) < 1.2 * DEADLINE
    assert {store for _, store in found} == {"redis"}
