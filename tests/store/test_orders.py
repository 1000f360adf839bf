"""Whose an order is and which session it has, on a real Valkey."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import IdempotencyInProgress, OrderConflict, OrderIdTaken, StorageUnavailable
from gateway.store.client import connect
from gateway.store.orders import EARLIER, KEPT, OrderClaim, Orders, OrderSessions, Taken, UnderWay
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


# The one session of an order.

HOLD = 15.0
PRICE, OTHER_PRICE = "aa" * 32, "bb" * 32


def sessions_on(store: Store) -> OrderSessions:
    return OrderSessions(store, clock=SystemClock(), hold=HOLD)


@pytest.fixture
async def sessions(valkey: ValkeyServer) -> AsyncIterator[OrderSessions]:
    store = patient(valkey.url)
    yield sessions_on(store)
    await store.close()


async def made_by(sessions: OrderSessions, price: str = PRICE, *, order_id: str = "ORD-1") -> OrderClaim:
    claim = await sessions.claim("shop", order_id, price)
    assert isinstance(claim, OrderClaim)
    return claim


async def test_an_order_has_one_session_whoever_asks_and_at_whatever_price(sessions: OrderSessions) -> None:
    claim = await made_by(sessions)
    for _ in range(2):
        assert await sessions.claim("shop", "ORD-1", PRICE) == UnderWay(same=True)
        assert await sessions.claim("shop", "ORD-1", OTHER_PRICE) == UnderWay(same=False)
    assert await claim.complete("cs_1") == "cs_1"
    for _ in range(2):
        assert await sessions.claim("shop", "ORD-1", PRICE) == Taken("cs_1", same=True)
        assert await sessions.claim("shop", "ORD-1", OTHER_PRICE) == Taken("cs_1", same=False)
    assert await claim.complete("cs_1") == "cs_1"
    assert await claim.complete("cs_2") == "cs_1"


async def test_of_many_requests_at_once_one_makes_the_session(sessions: OrderSessions) -> None:
    found = await asyncio.gather(*(sessions.claim("shop", "ORD-1", PRICE) for _ in range(50)))
    assert [type(one) for one in found].count(OrderClaim) == 1
    assert found.count(UnderWay(same=True)) == 49


async def test_orders_that_differ_only_in_unicode_form_have_a_session_each(sessions: OrderSessions) -> None:
    for number, order_id in enumerate(["caf\u00e9", "cafe\u0301", "CAF\u00c9"]):
        assert await (await made_by(sessions, order_id=order_id)).complete(f"cs_{number}") == f"cs_{number}"


async def test_a_released_order_is_anybodys_at_any_price(sessions: OrderSessions) -> None:
    claim = await made_by(sessions)
    await claim.release()
    assert await (await made_by(sessions, OTHER_PRICE)).complete("cs_2") == "cs_2"
    await claim.release()
    assert await sessions.claim("shop", "ORD-1", OTHER_PRICE) == Taken("cs_2", same=True)


async def test_an_owner_that_lost_the_order_never_shows_its_session(
    sessions: OrderSessions, valkey: ValkeyServer
) -> None:
    lost = await made_by(sessions)
    valkey.flush()  # to the owner the same as the end of its hold
    with pytest.raises(StorageUnavailable) as nobodys:
        await lost.complete("cs_1")
    claim = await made_by(sessions)
    with pytest.raises(IdempotencyInProgress) as under_way:
        await lost.complete("cs_1")
    for refusal in (nobodys, under_way):
        assert (refusal.value.outcome, refusal.value.retry_after) == ("unknown", 1)
    await lost.release()
    assert await claim.complete("cs_2") == "cs_2"
    assert await lost.complete("cs_1") == "cs_2"


async def test_an_owner_that_lost_the_order_to_another_price_shows_nothing(
    sessions: OrderSessions, valkey: ValkeyServer
) -> None:
    lost = await made_by(sessions)
    valkey.flush()
    claim = await made_by(sessions, OTHER_PRICE)
    for session_id in ("cs_2", None):
        with pytest.raises(OrderConflict) as refused:
            await lost.complete("cs_1")
        assert refused.value.outcome == "unknown"
        if session_id:
            assert await claim.complete(session_id) == session_id


async def test_an_order_forgets_its_session_before_that_ends_and_says_nothing_of_itself(
    sessions: OrderSessions, valkey: ValkeyServer
) -> None:
    with valkey.client() as client:
        claim = await made_by(sessions, order_id="alice@example.org")
        [name] = client.keys()
        assert re.fullmatch(rb"qpg:order-session:shop:[0-9a-f]{32}", name)
        assert HOLD - 5 < client.pttl(name) / 1000 <= HOLD
        await claim.complete("cs_1")
        # The session was stored up to `HOLD` ago, for `KEPT`.
        longest = KEPT - HOLD - EARLIER
        assert longest - 5 < client.pttl(name) / 1000 <= longest
        client.pexpire(name, 60_000)
        await sessions.claim("shop", "alice@example.org", PRICE)
        assert 0 < client.pttl(name) <= 60_000, "asking prolongs nothing"
        assert b"alice" not in client.get(name)


@pytest.mark.parametrize("session_id", ["", "cs_1\nmore", "cs_\u00e9"], ids=["none", "two lines", "not ASCII"])
async def test_an_order_whose_session_cannot_be_read_makes_no_other(
    sessions: OrderSessions, valkey: ValkeyServer, session_id: str
) -> None:
    await made_by(sessions)
    with valkey.client() as client:
        [name] = client.keys()
        client.set(name, f"1\nstored\n{PRICE}\n{session_id}")
    with pytest.raises(StorageUnavailable) as refused:
        await sessions.claim("shop", "ORD-1", PRICE)
    assert (refused.value.outcome, refused.value.retry_after) == ("not_sent", 1)


async def test_without_redis_no_session_is_made_and_none_shown(valkey_factory: Callable[[], ValkeyServer]) -> None:
    server = valkey_factory()
    store = Store(connect(server.url), clock=SystemClock(), metrics=Metrics())
    await store.start()
    claim = await made_by(sessions_on(store))
    server.pause()
    with pytest.raises(StorageUnavailable) as unknown:
        await claim.complete("cs_1")
    assert unknown.value.outcome == "unknown"
    await claim.release()  # never raises
    with pytest.raises(StorageUnavailable) as refused:
        await sessions_on(store).claim("shop", "ORD-2", PRICE)
    assert refused.value.outcome == "not_sent"
    server.resume()
    await store.close()
