"""Claims of any kind on a real Valkey: what is told, what lies there and for how long. See also test_idempotency.py."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.clock import Clock, SystemClock
from gateway.errors import StorageUnavailable
from gateway.store.claims import Claims, Held, Ownership, Stored
from gateway.store.client import connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

HOLD, KEPT = 20.0, 300.0


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[Store]:
    store = Store(Redis.from_url(valkey.url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
    yield store
    await store.close()


def numbers(store: Store, prefix: str = "qpg:numbers", clock: Clock | None = None) -> Claims[int]:
    """Claims whose results are numbers, written in hex."""
    clock = clock or SystemClock()
    return Claims(
        store, prefix=prefix, hold=HOLD, kept=KEPT, encode=hex, decode=lambda text: int(text, 16), clock=clock
    )


async def owned(claims: Claims[int], fingerprint: str = "aa") -> Ownership[int]:
    ownership = await claims.claim("shop", "name", fingerprint)
    assert isinstance(ownership, Ownership)
    assert ownership.fingerprint == fingerprint
    return ownership


async def test_a_name_is_held_by_one_and_then_has_a_result(store: Store) -> None:
    claims = numbers(store)
    ownership = await owned(claims)
    for fingerprint in ("aa", "bb"):
        held = await claims.claim("shop", "name", fingerprint)
        assert isinstance(held, Held)
        assert held.fingerprint == "aa"
    assert await ownership.complete(17) == Stored("aa", 17)
    for fingerprint in ("aa", "bb"):
        assert await claims.claim("shop", "name", fingerprint) == Stored("aa", 17)


async def test_an_owner_that_lost_its_name_is_told_what_is_there(store: Store, valkey: ValkeyServer) -> None:
    claims = numbers(store)
    late = await owned(claims)
    valkey.flush()
    assert await late.complete(1) is None
    assert not await late.release()
    quick = await owned(claims, "bb")
    held = await late.complete(1)
    assert isinstance(held, Held)
    assert held.fingerprint == "bb"
    assert await quick.complete(2) == Stored("bb", 2)
    assert await late.complete(1) == Stored("bb", 2)
    assert not await late.release()
    assert await claims.claim("shop", "name", "aa") == Stored("bb", 2)


async def test_a_released_name_is_free(store: Store) -> None:
    claims = numbers(store)
    assert await (await owned(claims)).release()
    assert await (await owned(claims, "bb")).complete(3) == Stored("bb", 3)


async def test_kinds_clients_and_names_are_apart(store: Store, valkey: ValkeyServer) -> None:
    others = [("qpg:numbers", "shop", "Name"), ("qpg:numbers", "shop-2", "name"), ("qpg:others", "shop", "name")]
    await owned(numbers(store))
    for prefix, client_id, name in others:
        assert isinstance(await numbers(store, prefix).claim(client_id, name, "aa"), Ownership)
    with valkey.client() as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert len(keys) == 4
    assert all(re.fullmatch(r"qpg:(numbers|others):(shop|shop-2):[0-9a-f]{32}", key) for key in keys)


async def test_a_claim_ends_with_its_hold_and_a_result_when_it_was_kept_long_enough(
    store: Store, valkey: ValkeyServer
) -> None:
    ownership = await owned(numbers(store))
    with valkey.client() as client:
        [key] = client.keys()
        assert HOLD - 5 < client.pttl(key) / 1000 <= HOLD
        await ownership.complete(1)
        assert KEPT - 5 < client.pttl(key) / 1000 <= KEPT


async def test_a_result_that_cannot_be_read_refuses_the_name(store: Store, valkey: ValkeyServer) -> None:
    claims = numbers(store)
    ownership = await owned(claims)
    await ownership.complete(1)
    with valkey.client() as client:
        [key] = client.keys()
        client.set(key, "1\nstored\naa\nno number")
    with pytest.raises(StorageUnavailable) as refused:
        await claims.claim("shop", "name", "aa")
    assert refused.value.outcome == "not_sent"
    with pytest.raises(StorageUnavailable) as unknown:
        await ownership.complete(1)
    assert unknown.value.outcome == "unknown"


async def test_without_redis_nobody_owns_and_nothing_is_known(valkey_factory: Callable[[], ValkeyServer]) -> None:
    server = valkey_factory()
    store = Store(connect(server.url), clock=SystemClock(), metrics=Metrics())
    ownership = await owned(numbers(store))
    server.kill()
    for attempt, outcome in [
        (numbers(store).claim("shop", "name", "aa"), "not_sent"),
        (ownership.complete(1), "unknown"),
        (ownership.release(), "unknown"),
    ]:
        with pytest.raises(StorageUnavailable) as refused:
            await attempt
        assert (refused.value.outcome, refused.value.retry_after) == (outcome, 1)
    await store.close()


class MovedClock(SystemClock):
    """The machine's clock, put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


async def test_the_servers_time_is_asked_for_only_where_no_reply_told_of_it_just_now(
    store: Store, valkey: ValkeyServer
) -> None:
    clock = MovedClock()
    claims = numbers(store, clock=clock)

    async def turns(name: str) -> int:
        with valkey.client() as client:
            client.config_resetstat()
            assert isinstance(await claims.claim("shop", name, "aa"), Ownership)
            statistics: Any = client.info("commandstats")
            return int(statistics["cmdstat_evalsha"]["calls"])

    await claims.claim("shop", "earlier", "aa")
    assert await turns("just after") == 1
    clock.ahead += store.deadline + 1
    assert await turns("much later") == 2
    assert await turns("just after that") == 1
    store.is_cluster = True  # each node has a clock of its own
    assert await turns("on any node") == 2


async def test_a_time_that_is_no_help_any_more_costs_one_turn(store: Store, valkey: ValkeyServer) -> None:
    claims = numbers(store)
    await claims.claim("shop", "earlier", "aa")
    claims._records._told -= 60_000_000  # as if the server's clock had been set forward
    assert isinstance(await claims.claim("shop", "name", "aa"), Ownership)
