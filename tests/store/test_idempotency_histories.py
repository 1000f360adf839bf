"""Any history of owners, faults and late commands shows at most one answer a key, on a real Valkey."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import GatewayError, IdempotencyInProgress, IdempotencyKeyReused, StorageUnavailable
from gateway.store.client import DEADLINE
from gateway.store.idempotency import KEPT, Answer, Claim, Idempotency
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

T = TypeVar("T")

HOLD = 15.0
MICROSECONDS = 1_000_000
CLOCK = "test:clock"
"""Where the test keeps the server's time, as seconds and microseconds."""

Fault = Literal["none", "stall", "frozen", "reply lost"]
FAULTS: list[Fault] = ["none", "stall", "frozen", "reply lost"]
CALM: list[list[Fault]] = [[], ["none"]]
"""Before a fault: nothing, or the first command of a claim, which only asks the time."""


@dataclass(frozen=True)
class Command:
    """What was sent to a frozen server, whose sender has given up."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | int]

    @property
    def claims(self) -> bool:
        expected, *_ = self.args
        return expected == ""


class FaultyStore(Store):
    """A store on a real Valkey, whose time stands still, and which does to each command what the test says."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, socket_timeout=20)
        super().__init__(self.redis, clock=SystemClock(), metrics=Metrics(), deadline=20)
        self.now = 1_775_000_000 * MICROSECONDS
        self.faults: list[Fault] = []
        """Of the next commands, in order; later ones meet none."""
        self.late: list[Command] = []

    @property
    def deadline(self) -> float:
        """What is waited by the time of the test; the machine may take longer."""
        return DEADLINE

    async def write(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "frozen":
            self.late.append(Command(script, keys, args))
            raise StorageUnavailable(retry_after=1)
        if fault == "stall":  # the event loop, or the server's clock jumped: longer than anyone waits
            await self.advance(DEADLINE)
        reply = await super().write(script, keys, args)
        if fault == "reply lost":
            raise StorageUnavailable(retry_after=1)
        return reply

    async def advance(self, seconds: float) -> None:
        """Move the server's time just beyond `seconds` from now."""
        self.now += round(seconds * MICROSECONDS) + 1
        await self.redis.hset(CLOCK, mapping={"s": self.now // MICROSECONDS, "us": self.now % MICROSECONDS})

    async def thaw(self, command: Command) -> None:
        """Carry out what a frozen server was sent, now that its sender has given up."""
        await self.advance(DEADLINE)
        await super().write(command.script, command.keys, command.args)


def idempotency_on(store: Store) -> Idempotency:
    """Return the real thing, whose script reads the server's time where the test keeps it."""
    idempotency = Idempotency(store, clock=SystemClock(), metrics=Metrics(), hold=HOLD)
    script = idempotency._claims._records._script
    held = script.text.replace('redis.call("TIME")', f'redis.call("HMGET", "{CLOCK}", "s", "us")')
    assert held != script.text
    idempotency._claims._records._script = replace(script, text=held)
    return idempotency


@dataclass
class Owner:
    """A request that was told it owns its key, and the answer it made."""

    name: tuple[str, str]
    fingerprint: str
    claim: Claim
    answer: Answer


# Mostly one key: histories are interesting where requests meet.
names = st.sampled_from([("orders", "key-1")] * 3 + [("billing", "key-1"), ("orders", "key-2")])
fingerprints = st.sampled_from(["aa", "aa", "bb"])
first_or_later = st.builds(lambda calm, fault: [*calm, fault], st.sampled_from(CALM), st.sampled_from(FAULTS))
some_faults = st.one_of(st.just([]), first_or_later, st.lists(st.sampled_from(FAULTS), max_size=3))


class Histories(RuleBasedStateMachine):
    """Clients that claim, complete, release and die, on a Redis that stalls, freezes, expires and is flushed."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = self.runner.run(self.begin())
        self.processes = [idempotency_on(self.store) for _ in range(2)]
        self.owners: list[Owner] = []
        self.answers = 0
        self.shown: dict[tuple[str, str], tuple[str, Answer]] = {}
        """What was shown for a client's key, and to requests of which fingerprint, since it was last forgotten."""

    async def begin(self) -> FaultyStore:
        store = FaultyStore(self.url)
        await store.redis.flushall()
        await store.advance(0)
        return store

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def show(self, name: tuple[str, str], fingerprint: str, answer: Answer) -> None:
        assert self.shown.setdefault(name, (fingerprint, answer)) == (fingerprint, answer)

    async def outcome(self, attempt: Awaitable[T], faults: list[Fault]) -> T | GatewayError:
        """Await an attempt whose commands meet `faults`, and return what it returned or raised."""
        self.store.faults = list(faults)
        try:
            return await attempt
        except GatewayError as error:
            return error
        finally:
            self.store.faults = []

    async def values(self) -> dict[bytes, bytes]:
        """Return all of ours that lies in Redis."""
        redis = self.store.redis
        return {key: await redis.get(key) for key in await redis.keys("qpg:idempotency:*")}

    @rule(name=names, fingerprint=fingerprints, faults=some_faults, process=st.integers(0, 1))
    def claim(self, name: tuple[str, str], fingerprint: str, faults: list[Fault], process: int) -> None:
        self.runner.run(self._claim(name, fingerprint, faults, self.processes[process]))

    async def _claim(
        self, name: tuple[str, str], fingerprint: str, faults: list[Fault], idempotency: Idempotency
    ) -> None:
        match await self.outcome(idempotency.claim(*name, fingerprint), faults):
            case Claim() as claim:
                self.answers += 1
                answer = Answer(f"page {self.answers}".encode(), f"/checkout-sessions/{self.answers}")
                self.owners.append(Owner(name, fingerprint, claim, answer))
            case Answer() as answer:
                self.show(name, fingerprint, answer)
            case StorageUnavailable() as failure:
                assert failure.outcome == "not_sent"
                assert set(faults) - {"none"}, "without a fault it is known who has the key"
            case refusal:
                assert isinstance(refusal, IdempotencyInProgress | IdempotencyKeyReused)

    @rule(data=st.data(), faults=some_faults)
    def complete(self, data: st.DataObject, faults: list[Fault]) -> None:
        if self.owners:
            self.runner.run(self._complete(data.draw(st.sampled_from(self.owners)), faults))

    async def _complete(self, owner: Owner, faults: list[Fault]) -> None:
        match await self.outcome(owner.claim.complete(owner.answer), faults):
            case Answer() as answer:
                self.show(owner.name, owner.fingerprint, answer)
            case error:
                assert error.outcome == "unknown"

    @rule(data=st.data(), faults=some_faults)
    def release(self, data: st.DataObject, faults: list[Fault]) -> None:
        if self.owners:
            owner = data.draw(st.sampled_from(self.owners))
            assert self.runner.run(self.outcome(owner.claim.release(), faults)) is None

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if self.owners:
            self.owners.remove(data.draw(st.sampled_from(self.owners)))

    @rule(data=st.data())
    def thaw(self, data: st.DataObject) -> None:
        if self.store.late:
            command = data.draw(st.sampled_from(self.store.late))
            self.store.late.remove(command)
            self.runner.run(self._thaw(command))

    async def _thaw(self, command: Command) -> None:
        before = await self.values()
        await self.store.thaw(command)
        assert not command.claims or await self.values() == before, "a late claim does nothing"

    @rule(name=names)
    def expire(self, name: tuple[str, str]) -> None:
        """A claim's hold ends, or an answer's day."""
        self.runner.run(self._expire(name))

    async def _expire(self, name: tuple[str, str]) -> None:
        # The key's name comes from a command that the real code sends.
        self.store.faults = ["frozen"]
        with pytest.raises(StorageUnavailable):
            await self.processes[0].claim(*name, "aa")
        [key] = self.store.late.pop().keys
        if b"stored" in (await self.store.redis.get(key) or b""):
            self.shown.pop(name, None)
        await self.store.redis.delete(key)

    @rule(surely=st.sampled_from([True, False, False]))
    def flush(self, surely: bool) -> None:
        if surely:
            self.runner.run(self._flush())
            self.shown.clear()

    async def _flush(self) -> None:
        await self.store.redis.flushall()
        await self.store.advance(0)

    @invariant()
    def every_key_ends(self) -> None:
        self.runner.run(self._every_key_ends())

    async def _every_key_ends(self) -> None:
        for key, value in (await self.values()).items():
            most = KEPT if b"stored" in value else HOLD
            assert 0 < await self.store.redis.pttl(key) <= most * 1000


def test_any_history_shows_at_most_one_answer_a_key(valkey: ValkeyServer) -> None:
    class HereAndNow(Histories):
        url = valkey.url

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )


async def claimed(store: FaultyStore, faults: list[Fault]) -> Claim | Answer:
    store.faults = list(faults)
    return await idempotency_on(store).claim("orders", "key-1", "aa")


@pytest.mark.parametrize("faults", [[], ["stall"], ["none", "stall"]], ids=str)
async def test_a_claim_that_was_too_late_is_sent_again(valkey: ValkeyServer, faults: list[Fault]) -> None:
    store = FaultyStore(valkey.url)
    await store.advance(0)
    assert isinstance(await claimed(store, faults), Claim)
    await store.close()


async def test_a_claim_that_is_always_too_late_claims_nothing(valkey: ValkeyServer) -> None:
    store = FaultyStore(valkey.url)
    await store.advance(0)
    with pytest.raises(StorageUnavailable) as refused:
        await claimed(store, ["none", "stall", "stall"])
    assert (refused.value.outcome, refused.value.retry_after) == ("not_sent", 1)
    assert await store.redis.keys("qpg:idempotency:*") == []
    assert isinstance(await claimed(store, []), Claim)
    await store.close()


async def test_a_claim_whose_reply_was_lost_is_nobodys(valkey: ValkeyServer) -> None:
    store = FaultyStore(valkey.url)
    await store.advance(0)
    with pytest.raises(StorageUnavailable):
        await claimed(store, ["none", "reply lost"])
    with pytest.raises(IdempotencyInProgress):
        await claimed(store, [])
    await store.close()


async def test_an_answer_whose_reply_was_lost_is_what_a_retry_gets(valkey: ValkeyServer) -> None:
    store, answer = FaultyStore(valkey.url), Answer(b"page", "/checkout-sessions/1")
    await store.advance(0)
    owner = await claimed(store, [])
    assert isinstance(owner, Claim)
    store.faults = ["reply lost"]
    with pytest.raises(StorageUnavailable) as unknown:
        await owner.complete(answer)
    assert unknown.value.outcome == "unknown"
    assert await claimed(store, []) == answer
    assert await owner.complete(answer) is answer
    await store.close()
