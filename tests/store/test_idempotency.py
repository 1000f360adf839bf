"""Claims and answers on a real Valkey: every state against every call, and a server that freezes or dies."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import structlog
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import GatewayError, IdempotencyInProgress, IdempotencyKeyReused, StorageUnavailable
from gateway.store.client import connect
from gateway.store.idempotency import KEPT, MOST_BODY, Answer, Claim, Idempotency
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import IDEMPOTENCY_RESULTS, Metrics
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]

HOLD = 15.0
PATIENCE = 5.0
"""Seconds that a recovery may take on a busy machine; it takes 0.3."""
KEY, FINGERPRINT, OTHER_FINGERPRINT = "key-1", "aa" * 32, "bb" * 32
OURS = Answer(b'{"id": "cs_ours"}', "/checkout-sessions/cs_ours")
THEIRS = Answer(b'{"id": "cs_theirs"}', "/checkout-sessions/cs_theirs")


class PatientStore(Store):
    """A store for tests that are not about deadlines: a busy machine is no outage."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        super().__init__(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=metrics, deadline=20)


class Gateway:
    """What one process has: keys claimed through a store, and what was counted."""

    def __init__(self, store: Store, metrics: Metrics, hold: float = HOLD) -> None:
        self.store = store
        self.metrics = metrics
        self.idempotency = Idempotency(store, clock=SystemClock(), metrics=metrics, hold=hold)

    async def claim(self, fingerprint: str = FINGERPRINT, *, client: str = "orders", key: str = KEY) -> Claim | Answer:
        return await self.idempotency.claim(client, key, fingerprint)

    async def own(self, fingerprint: str = FINGERPRINT, *, client: str = "orders", key: str = KEY) -> Claim:
        claim = await self.claim(fingerprint, client=client, key=key)
        assert isinstance(claim, Claim)
        return claim

    def counted(self) -> dict[str, int]:
        values = {
            result: self.metrics.registry.get_sample_value("gateway_idempotency_total", {"result": result})
            for result in IDEMPOTENCY_RESULTS
        }
        return {result: int(value) for result, value in values.items() if value}


@pytest.fixture
async def gateway(valkey: ValkeyServer) -> AsyncIterator[Gateway]:
    metrics = Metrics()
    store = PatientStore(valkey.url, metrics)
    yield Gateway(store, metrics)
    await store.close()


@pytest.fixture
async def neighbour(valkey: ValkeyServer) -> AsyncIterator[Gateway]:
    """A second process on the same Valkey."""
    metrics = Metrics()
    store = PatientStore(valkey.url, metrics)
    yield Gateway(store, metrics)
    await store.close()


def redis_key(client: redis.Redis) -> str:
    """Return the one key there is."""
    [name] = client.keys("qpg:idempotency:*")
    return name.decode()


# Every state of a key, and what a call makes of it.


async def free(_neighbour: Gateway, _valkey: ValkeyServer) -> None:
    pass


async def held(neighbour: Gateway, _valkey: ValkeyServer) -> None:
    await neighbour.own()


async def held_by_another_request(neighbour: Gateway, _valkey: ValkeyServer) -> None:
    await neighbour.own(OTHER_FINGERPRINT)


async def answered(neighbour: Gateway, _valkey: ValkeyServer) -> None:
    await (await neighbour.own()).complete(THEIRS)


async def answered_to_another_request(neighbour: Gateway, _valkey: ValkeyServer) -> None:
    await (await neighbour.own(OTHER_FINGERPRINT)).complete(THEIRS)


State = Callable[[Gateway, ValkeyServer], Awaitable[None]]


async def occupied(neighbour: Gateway, valkey: ValkeyServer, write: Callable[[redis.Redis, str], Any]) -> bytes | None:
    """Have something foreign under the key; return the string there, if it is one."""
    await neighbour.own()
    with valkey.client() as client:
        name = redis_key(client)
        client.delete(name)
        write(client, name)
        return client.dump(name)


@pytest.mark.parametrize(
    ("state", "expected", "counts"),
    [
        (free, None, "claimed"),
        (held, IdempotencyInProgress, "in-progress"),
        (held_by_another_request, IdempotencyKeyReused, "key-reused"),
        (answered, THEIRS, "replayed"),
        (answered_to_another_request, IdempotencyKeyReused, "key-reused"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_a_claim_finds(
    gateway: Gateway, neighbour: Gateway, valkey: ValkeyServer, state: State, expected: Any, counts: str
) -> None:
    await state(neighbour, valkey)
    for _ in range(1 if state is free else 3):
        if isinstance(expected, type):
            with pytest.raises(expected) as refused:
                await gateway.claim()
            assert refused.value.retry_after == (1 if expected is IdempotencyInProgress else None)
        elif expected is None:
            await gateway.own()
        else:
            assert await gateway.claim() == expected
    assert gateway.counted() == {counts: 1 if state is free else 3}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (free, StorageUnavailable),
        (held, IdempotencyInProgress),
        (held_by_another_request, IdempotencyKeyReused),
        (answered, THEIRS),
        (answered_to_another_request, IdempotencyKeyReused),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_an_owner_that_lost_its_claim_never_shows_its_own_answer(
    gateway: Gateway, neighbour: Gateway, valkey: ValkeyServer, state: State, expected: Any
) -> None:
    claim = await gateway.own()
    valkey.flush()  # to the owner the same as the end of its hold
    await state(neighbour, valkey)
    for _ in range(2):
        if isinstance(expected, type):
            with pytest.raises(expected) as refused:
                await claim.complete(OURS)
            assert refused.value.outcome == "unknown"
            assert refused.value.retry_after == (None if expected is IdempotencyKeyReused else 1)
        else:
            assert await claim.complete(OURS) == expected
    assert gateway.counted() == {"claimed": 1, "lost": 2}


@pytest.mark.parametrize(
    "state",
    [free, held, held_by_another_request, answered, answered_to_another_request],
    ids=lambda value: value.__name__,
)
async def test_an_owner_that_lost_its_claim_frees_nothing(
    gateway: Gateway, neighbour: Gateway, valkey: ValkeyServer, state: State
) -> None:
    claim = await gateway.own()
    valkey.flush()
    await state(neighbour, valkey)
    with valkey.client() as client:
        before = {name: client.get(name) for name in client.keys("qpg:idempotency:*")}
        await claim.release()
        assert {name: client.get(name) for name in client.keys("qpg:idempotency:*")} == before
    assert gateway.counted() == {"claimed": 1}


async def test_an_answer_is_replayed_byte_for_byte_to_every_process(gateway: Gateway, neighbour: Gateway) -> None:
    body = '{"a": "é\n\r\n\0€𝄞", "b":  1.10}\n'.encode()
    answer = Answer(body, "https://shop.example/checkout-sessions/cs_1?a=%20b")
    claim = await gateway.own()
    assert await claim.complete(answer) is answer
    for process in (gateway, neighbour):
        assert await process.claim() == answer
    assert gateway.counted() == {"claimed": 1, "completed": 1, "replayed": 1}
    assert neighbour.counted() == {"replayed": 1}


async def test_completing_twice_stores_once_and_shows_the_same(gateway: Gateway) -> None:
    claim = await gateway.own()
    assert await claim.complete(OURS) is OURS
    assert await claim.complete(OURS) is OURS
    assert await claim.complete(THEIRS) == OURS
    assert await gateway.claim() == OURS


async def test_a_released_key_is_free_at_once_and_its_owner_has_lost_it(gateway: Gateway, neighbour: Gateway) -> None:
    claim = await gateway.own()
    await claim.release()
    await claim.release()
    with pytest.raises(StorageUnavailable):
        await claim.complete(OURS)
    assert await (await neighbour.own(OTHER_FINGERPRINT)).complete(THEIRS) is THEIRS
    assert gateway.counted() == {"claimed": 1, "released": 1, "lost": 1}


async def test_a_release_after_the_answer_was_stored_leaves_it(gateway: Gateway) -> None:
    claim = await gateway.own()
    await claim.complete(OURS)
    await claim.release()
    assert await gateway.claim() == OURS
    assert gateway.counted() == {"claimed": 1, "completed": 1, "replayed": 1}


async def test_of_many_at_once_one_owns_the_key(gateway: Gateway, neighbour: Gateway) -> None:
    claims = [process.claim() for process in (gateway, neighbour) for _ in range(25)]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)
    [owner] = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    assert sum(isinstance(outcome, IdempotencyInProgress) for outcome in outcomes) == 49
    assert await owner.complete(OURS) is OURS


async def test_clients_and_keys_are_independent_of_each_other(gateway: Gateway) -> None:
    names = [("orders", "a"), ("orders", "A"), ("orders", "b" * 255), ("order", "s:a"), ("billing", "a")]
    for client, key in names:
        claim = await gateway.own(client=client, key=key)
        answer = Answer(f"{client}/{key}".encode(), "/")
        assert await claim.complete(answer) is answer
    for client, key in names:
        assert await gateway.claim(client=client, key=key) == Answer(f"{client}/{key}".encode(), "/")


# Values that cannot be stored, or that somebody else stored.


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"x" * (MOST_BODY + 1), "/"),
        Answer(b"\xff", "/"),
        Answer(b"{}", "/\nSet-Cookie: a=b"),
        Answer(b"{}", "/é"),
    ],
    ids=["too large", "not UTF-8", "two lines", "not ASCII"],
)
async def test_what_cannot_be_replayed_is_not_stored(gateway: Gateway, answer: Answer) -> None:
    claim = await gateway.own()
    with pytest.raises(ValueError):
        await claim.complete(answer)
    with pytest.raises(IdempotencyInProgress):
        await gateway.claim()
    largest = Answer(b"x" * MOST_BODY, "")
    assert await claim.complete(largest) is largest
    assert await gateway.claim() == largest


@pytest.mark.parametrize(
    "write",
    [
        lambda client, name: client.set(name, "somebody else's"),
        lambda client, name: client.set(name, b"\xff\xfe", px=60_000),
        lambda client, name: client.set(name, f"2\nheld\n{FINGERPRINT}\ntoken\nmore"),
        lambda client, name: client.set(name, f"1\nheld\n{FINGERPRINT}\ntoken\nmore"),
        lambda client, name: client.set(name, f"1\nstored\n{FINGERPRINT}\n/location"),
        lambda client, name: client.hset(name, "a", "b"),
        lambda client, name: client.rpush(name, "a"),
    ],
    ids=["text", "bytes", "newer version", "longer claim", "cut off", "hash", "list"],
)
async def test_a_value_that_is_not_ours_lets_nothing_be_created_and_stays(
    gateway: Gateway, neighbour: Gateway, valkey: ValkeyServer, write: Callable[[redis.Redis, str], Any]
) -> None:
    claim = await gateway.own()
    valkey.flush()
    found = await occupied(neighbour, valkey, write)
    with structlog.testing.capture_logs() as lines:
        with pytest.raises(StorageUnavailable) as refused:
            await gateway.claim()
        assert (refused.value.outcome, refused.value.retry_after) == ("not_sent", 1)
        with pytest.raises(StorageUnavailable) as lost:
            await claim.complete(OURS)
        assert (lost.value.outcome, lost.value.retry_after) == ("unknown", 1)
        await claim.release()
    with valkey.client() as client:
        name = redis_key(client)
        assert client.dump(name) == found
    assert [(line["log_level"], line["key"]) for line in lines] == [("error", name)] * 3
    assert FINGERPRINT not in str(lines)


# What lies in Redis.


async def test_a_key_says_nothing_of_what_it_is_for(gateway: Gateway, valkey: ValkeyServer) -> None:
    await gateway.own(key="order 17 of alice@example.org")
    with valkey.client() as client:
        name = redis_key(client)
        assert re.fullmatch(r"qpg:idempotency:orders:[0-9a-f]{32}", name)
        assert b"alice" not in client.get(name)


async def test_a_claim_lives_for_its_hold_and_an_answer_for_a_day(gateway: Gateway, valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        claim = await gateway.own()
        name = redis_key(client)
        assert HOLD - 5 < client.pttl(name) / 1000 <= HOLD
        await claim.complete(OURS)
        assert KEPT - 5 < client.pttl(name) / 1000 <= KEPT


async def test_asking_again_prolongs_neither_a_claim_nor_an_answer(gateway: Gateway, valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        claim = await gateway.own()
        name = redis_key(client)
        client.pexpire(name, 5000)
        with pytest.raises(IdempotencyInProgress):
            await gateway.claim()
        assert 0 < client.pttl(name) <= 5000
        await claim.complete(OURS)
        client.pexpire(name, 5000)
        assert await gateway.claim() == OURS
        assert 0 < client.pttl(name) <= 5000


async def test_a_claim_whose_owner_died_frees_itself(gateway: Gateway, valkey: ValkeyServer) -> None:
    abandoned = await gateway.own()
    with valkey.client() as client:
        name = redis_key(client)
        client.pexpire(name, 1)
        while client.exists(name):
            await asyncio.sleep(0.001)
    assert await (await gateway.own()).complete(THEIRS) is THEIRS
    assert await abandoned.complete(OURS) == THEIRS


# Redis freezes, dies, and comes back as another.


class FreezingStore(Store):
    """A store whose server freezes just before the command that would claim."""

    freeze: Callable[[], None] | None = None

    async def write(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        *_, not_after = args
        if self.freeze and not_after != 0:
            self.freeze()
        return await super().write(script, keys, args)


@asynccontextmanager
async def exposed(server: ValkeyServer, *, hold: float = HOLD) -> AsyncIterator[tuple[Gateway, FreezingStore]]:
    """A gateway with the store as it is in production, deadline and watch."""
    metrics = Metrics()
    store = FreezingStore(connect(server.url), clock=SystemClock(), metrics=metrics)
    await store.start()
    try:
        yield Gateway(store, metrics, hold), store
    finally:
        await store.close()


async def until_back(store: Store) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.run(lambda redis: redis.ping())
            except StorageUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def unavailable(attempt: Awaitable[Any]) -> GatewayError:
    """Await what must fail for want of Redis, within its deadline; return the error."""
    started = time.perf_counter()
    with pytest.raises(StorageUnavailable) as refused:
        await attempt
    assert time.perf_counter() - started < 1.5  # of a busy machine; redis-py's own patience is 3.3 s
    assert refused.value.retry_after == 1
    assert refused.value.__cause__ is None
    return refused.value


def scripts_run(server: ValkeyServer) -> int:
    """Return how many commands of `Script` the server has carried out, or refused, so far."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def until_the_late_command_ran(server: ValkeyServer, before: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while scripts_run(server) == before:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("pause", "turns"), [(0.0, 1), (0.2, 2)])
async def test_a_claim_that_a_frozen_redis_runs_late_leaves_nothing(
    valkey_factory: ValkeyFactory, pause: float, turns: int
) -> None:
    server = valkey_factory()
    async with exposed(server) as (gateway, store):
        await (await gateway.own(key="another")).release()  # so that the server knows the script
        before = scripts_run(server)
        await asyncio.sleep(pause)  # after which the server is asked for its time again
        store.freeze = server.pause
        assert (await unavailable(gateway.claim())).outcome == "not_sent"
        store.freeze = None
        server.resume()
        await until_the_late_command_ran(server, before + turns - 1)
        with server.client() as client:
            assert client.keys("qpg:idempotency:*") == []
        await until_back(store)
        assert await (await gateway.own(OTHER_FINGERPRINT)).complete(OURS) is OURS


async def test_an_answer_that_a_frozen_redis_stores_late_is_what_a_retry_gets(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with exposed(server) as (gateway, store):
        claim = await gateway.own()
        before = scripts_run(server)
        server.pause()
        assert (await unavailable(claim.complete(OURS))).outcome == "unknown"
        await claim.release()  # never raises
        server.resume()
        await until_the_late_command_ran(server, before)
        await until_back(store)
        assert await gateway.claim() == OURS


async def test_an_answer_that_comes_after_the_hold_is_not_stored(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with exposed(server, hold=0.02) as (gateway, store):
        claim = await gateway.own()
        before = scripts_run(server)
        server.pause()
        assert (await unavailable(claim.complete(OURS))).outcome == "unknown"  # after 0.1 s, longer than the hold
        server.resume()
        await until_the_late_command_ran(server, before)
        await until_back(store)
        assert isinstance(await gateway.claim(), Claim)


async def test_a_redis_that_died_and_came_back_empty_shows_one_answer(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with exposed(server) as (gateway, store):
        first = await gateway.own()
        server.kill()
        assert (await unavailable(gateway.claim(key="another"))).outcome == "not_sent"
        assert (await unavailable(first.complete(OURS))).outcome == "unknown"
        server.restart()
        await until_back(store)
        assert (await unavailable(first.complete(OURS))).outcome == "unknown"
        second = await gateway.own()
        with pytest.raises(IdempotencyInProgress):
            await first.complete(OURS)
        assert await second.complete(THEIRS) is THEIRS
        assert await first.complete(OURS) == THEIRS


async def test_a_primary_that_was_demoted_replays_nothing(valkey_factory: ValkeyFactory) -> None:
    # Its answer may be one that the new primary never had, where another has been shown since.
    server = valkey_factory()
    async with exposed(server) as (gateway, _):
        await (await gateway.own()).complete(OURS)
        assert await gateway.claim() == OURS
        with server.client() as client:
            client.replicaof("127.0.0.1", 1)
        assert (await unavailable(gateway.claim())).outcome == "not_sent"
