"""Whose an order id is, on a real Valkey."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import OrderIdTaken, StorageUnavailable
from gateway.store.client import connect
from gateway.store.orders import KEPT, Orders
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer


def patient(url: str) -> Store:
    """A store for tests that are not about deadlines: a busy machine is no outage."""
    return Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)


@pytest.fixture
async def orders(valkey: ValkeyServer) -> AsyncIterator[Orders]:
    store = patient(valkey.url)
    yield Orders(store)
    await store.close()


async def takes(orders: Orders, client_id: str, order_id: str) -> bool:
    try:
        await orders.claim(client_id, order_id)
    except OrderIdTaken:
        return False
    return True


async def test_an_order_id_belongs_to_the_client_that_used_it_first(orders: Orders) -> None:
    assert await takes(orders, "shop", "ORD-1")
    assert not await takes(orders, "billing", "ORD-1")
    assert await takes(orders, "shop", "ORD-1")
    assert await takes(orders, "billing", "ORD-2")


async def test_ids_are_compared_byte_for_byte(orders: Orders) -> None:
    alike = ["caf\u00e9", "cafe\u0301", "CAF\u00c9", "caf\u00e9 ", "𝄞" * 255]
    for number, order_id in enumerate(alike):
        assert await takes(orders, f"client-{number}", order_id)
    for order_id in alike:
        assert not await takes(orders, "latecomer", order_id)


async def test_of_many_clients_at_once_one_gets_the_id(orders: Orders) -> None:
    assert sum(await asyncio.gather(*(takes(orders, f"client-{n}", "ORD-1") for n in range(30)))) == 1


async def test_an_id_stays_its_clients_for_thirty_days_from_its_last_use(orders: Orders, valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        await orders.claim("shop", "ORD-1")
        [name] = client.keys("qpg:*")
        assert KEPT - 5 < client.pttl(name) / 1000 <= KEPT == 30 * 24 * 3600
        client.pexpire(name, 60_000)
        assert not await takes(orders, "billing", "ORD-1")
        assert 0 < client.pttl(name) <= 60_000, "being refused prolongs nothing"
        assert await takes(orders, "shop", "ORD-1")
        assert KEPT - 5 < client.pttl(name) / 1000 <= KEPT


async def test_a_key_says_nothing_of_the_order(orders: Orders, valkey: ValkeyServer) -> None:
    await orders.claim("shop", "alice@example.org")
    with valkey.client() as client:
        [name] = client.keys()
        assert re.fullmatch(rb"qpg:order:[0-9a-f]{32}", name)
        assert client.get(name) == b"shop"


async def test_without_redis_nothing_is_sent(valkey_factory: Callable[[], ValkeyServer]) -> None:
    server = valkey_factory()
    store = Store(connect(server.url), clock=SystemClock(), metrics=Metrics())
    await store.start()
    server.pause()
    for _ in range(2):
        with pytest.raises(StorageUnavailable) as refused:
            await Orders(store).claim("shop", "ORD-1")
        assert (refused.value.outcome, refused.value.retry_after) == ("not_sent", 1)
    server.resume()
    await store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(uses=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.text("xyé|\n ", min_size=1, max_size=2))))
def test_any_history_of_uses_is_decided_by_the_first(valkey: ValkeyServer, uses: list[tuple[str, str]]) -> None:
    owners: dict[str, str] = {}

    async def compare() -> None:
        store = patient(valkey.url)
        for client_id, order_id in uses:
            owner = owners.setdefault(order_id, client_id)
            assert await takes(Orders(store), client_id, order_id) == (owner == client_id)
        await store.close()

    valkey.flush()
    asyncio.run(compare())
