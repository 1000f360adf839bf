"""The budget over several processes on a real Valkey whose clock the tests hold, while it is there and when it fails."""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.crc import key_slot

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable, UpstreamBudgetExhausted
from gateway.quantapay.budget import Budget, BudgetState, SharedBudget, Unmetered
from gateway.quantapay.budget.ledger import MOST_AT_ONCE
from gateway.quantapay.budget.share import Grant
from gateway.quantapay.urgency import Urgency
from gateway.quota import Quota
from gateway.store.client import DEADLINE, connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]
URGENT, READ, BACKGROUND = Urgency
START = 1_775_000_000.0
"""A time of 2026, as Redis's clock gives it."""
NEW = 6.5
"""Seconds after which a generation is no longer new."""
HELD_TIME = "held:now"
BLUR = 1e-5


class HeldClock(SystemClock):
    """A process's clock in a world that is held: started at another time than others, but as fast."""

    def __init__(self, world: "World", started: float) -> None:
        self._world = world
        self._started = started

    def monotonic(self) -> float:
        return self._world.elapsed + self._started

    async def sleep(self, seconds: float) -> None:
        await self._world.sleep(seconds)

    def random(self) -> float:
        return 0.5


class FlakyStore(Store):
    """A store that a test can cut off from Redis: before a command gets there, or before its reply is back."""

    cut: str | None = None

    async def run(self, command: Callable[[Any], Any]) -> Any:
        if self.cut == "command":
            raise StorageUnavailable(retry_after=1)
        result = await super().run(command)
        if self.cut == "reply":
            raise StorageUnavailable(retry_after=1)
        return result


@dataclass
class Process:
    """One gateway process, as far as the budget goes."""

    budget: SharedBudget
    store: FlakyStore
    metrics: Metrics

    async def look(self) -> None:
        await self.budget._look()

    def gauges(self) -> tuple[float | None, float | None]:
        value = self.metrics.registry.get_sample_value
        return value("quantapay_budget_limit"), value("quantapay_budget_remaining")


@dataclass
class World:
    """Processes and a Valkey whose clocks stand still until they are moved, by the test or by a call that waits."""

    server: ValkeyServer
    client: redis.Redis
    quota: Quota
    elapsed: float = 0.0
    redis_ahead: float = START
    """Redis's time less `elapsed`."""
    moved_by_sleepers: bool = True
    slept: list[float] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    granted: list[tuple[float, Urgency]] = field(default_factory=list)
    """An independent record: when the caller had the grant."""
    _sleepers: list[tuple[float, asyncio.Event]] = field(default_factory=list)

    def tell_redis(self) -> None:
        self.client.set(HELD_TIME, f"{(self.elapsed + self.redis_ahead) * 1e6:.0f}")

    def set_redis_clock(self, by: float) -> None:
        self.redis_ahead += by
        self.tell_redis()

    def move(self, seconds: float, *, redis_there: bool = True) -> None:
        self.elapsed += seconds
        if redis_there:
            self.tell_redis()
        for due, event in self._sleepers:
            if due <= self.elapsed:
                event.set()
        self._sleepers = [(due, event) for due, event in self._sleepers if due > self.elapsed]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        due = self.elapsed + seconds
        if self.moved_by_sleepers:
            await asyncio.sleep(0)
            self.move(max(0.0, due - self.elapsed))
            return
        event = asyncio.Event()
        self._sleepers.append((due, event))
        await event.wait()

    async def sleeping(self, number: int) -> None:
        """Wait until so many sleep."""
        async with asyncio.timeout(5):
            while len(self._sleepers) < number:
                await asyncio.sleep(0.001)

    async def look(self) -> None:
        for process in self.processes:
            await process.look()

    def forget(self, data: str) -> None:
        """Lose nothing, the newest grants, as a failover does to what was not replicated yet, or all."""
        if data == "newest":
            self.client.zremrangebyrank("qpg:{budget:acct}:all", -3, -1)
        elif data == "all":
            self.client.flushall()
            self.tell_redis()

    async def pass_(self, seconds: float) -> None:
        """Let time pass as it does in production, where every process looks every five seconds."""
        while seconds > 0:
            hop = min(seconds, 5.0)
            seconds -= hop
            self.move(hop)
            await self.look()

    async def take(self, process: Process, urgency: Urgency) -> UpstreamBudgetExhausted | None:
        """Take one, note it, and return the refusal if it was refused."""
        try:
            await process.budget.take(urgency)
        except UpstreamBudgetExhausted as refusal:
            return refusal
        self.granted.append((self.elapsed, urgency))
        return None

    async def spend(self, process: Process, urgency: Urgency, most: int = 1000) -> int:
        """Take until refused; return how many were granted."""
        for count in range(most):
            refusal = await self.take(process, urgency)
            if refusal is not None:
                assert refusal.outcome == "not_sent"
                assert refusal.retry_after is not None
                assert 1 <= refusal.retry_after <= self.quota.window + 1
                return count
        return most

    def recent(self, span: float, *urgencies: Urgency) -> int:
        """Return how many were granted in the last `span` seconds."""
        return sum(at > self.elapsed - span and urgency in (urgencies or Urgency) for at, urgency in self.granted)

    def most_in_a_minute(self, urgencies: Iterable[Urgency] = Urgency) -> int:
        """Return the most grants in any 60 seconds."""
        times = [at for at, urgency in self.granted if urgency in urgencies]
        return max((sum(start <= at < start + 60 for at in times) for start in times), default=0)


@asynccontextmanager
async def world_of(
    server: ValkeyServer, *, processes: int, quota: str = "90/minute", settled: bool = True, patient: bool = True
) -> AsyncIterator[World]:
    """Several processes on one server; `settled`, they have run for a while.

    They are `patient`, so that a busy machine is not taken for an outage.
    """
    with server.client() as client:
        client.delete(
            *(f"qpg:{{budget:acct}}:{name}" for name in ("all", "reads", "background", "generation", "throttled"))
        )
        world = World(server, client, Quota.parse(quota))
        world.tell_redis()
        for number in range(processes):
            metrics = Metrics()
            connection = Redis.from_url(server.url, socket_timeout=20, protocol=2) if patient else connect(server.url)
            deadline = 20.0 if patient else DEADLINE
            store = FlakyStore(connection, clock=SystemClock(), metrics=metrics, deadline=deadline)
            await store.start()
            budget = SharedBudget(
                store,
                quota=world.quota,
                account="acct",
                share=lambda: processes,
                clock=HeldClock(world, started=1000.0 * number),
                metrics=metrics,
            )
            ledger = budget._ledger
            held = ledger._script.text.replace('redis.call("TIME")', f'{{0, redis.call("GET", "{HELD_TIME}")}}')
            assert held != ledger._script.text
            ledger._script = replace(ledger._script, text=held)
            world.processes.append(Process(budget, store, metrics))
        if settled:
            await world.look()
            await world.pass_(NEW)
        try:
            yield world
        finally:
            for process in world.processes:
                await process.budget.close()
                await process.store.close()


async def test_unmetered_grants_everything() -> None:
    budget: Budget = Unmetered()
    for _ in range(1000):
        await budget.take(BACKGROUND)
        await budget.throttled()


async def test_each_urgency_has_its_part_and_creates_always_find_a_fifth(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2) as world:
        first, second = world.processes
        assert await world.spend(first, BACKGROUND) == 18
        assert await world.spend(second, READ) == 72 - 18
        assert await world.spend(first, BACKGROUND) == 0
        assert await world.spend(second, URGENT) == 18
        assert await world.spend(first, READ) == 0
        world.move(61)
        assert await world.spend(second, URGENT) == 90
        for urgency in Urgency:
            assert await world.spend(first, urgency) == 0


async def test_a_budget_of_one_serves_every_urgency_in_turn(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="1/minute") as world:
        [process] = world.processes
        for urgency in Urgency:
            assert await world.spend(process, urgency) == 1
            assert process.budget.state.remaining == 0
            world.move(61)
            await world.look()
            assert process.budget.state.remaining == 1


async def test_all_keys_share_a_slot_name_their_account_and_expire(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1) as world:
        await world.processes[0].budget.throttled()
        await world.take(world.processes[0], BACKGROUND)
        keys = [key.decode() for key in world.client.keys("qpg:{budget:*")]
        assert sorted(key.removeprefix("qpg:{budget:acct}:") for key in keys) == [
            "all",
            "background",
            "generation",
            "reads",
            "throttled",
        ]
        assert len({key_slot(key.encode()) for key in keys}) == 1
        for key in keys:
            assert 55_000 < world.client.pttl(key) <= 81_000


async def test_no_key_ends_while_it_is_asked_for(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1) as world:
        await world.take(world.processes[0], BACKGROUND)
        keys = [f"qpg:{{budget:acct}}:{name}" for name in ("all", "reads", "background", "generation")]
        for key in keys:
            world.client.pexpire(key, 70_000)
        await world.processes[0].look()
        for key in keys:
            assert world.client.pttl(key) > 75_000, "longer than its grants count"


async def test_each_log_counts_what_is_from_the_future_for_one_span(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2) as world:
        first, second = world.processes
        for urgency, calls in ((BACKGROUND, 1), (READ, 2), (URGENT, 3)):
            assert await world.spend(first, urgency, calls) == calls
        world.set_redis_clock(-3600)
        world.processes.remove(first)
        await second.look()
        logs = [
            world.client.zrange(f"qpg:{{budget:acct}}:{log}", 0, -1, withscores=True)
            for log in ("all", "reads", "background")
        ]
        assert [len(log) for log in logs] == [6, 3, 1]
        assert {score for log in logs for _, score in log} == {float(world.client.get(HELD_TIME))}
        await first.store.close()


async def test_a_read_waits_for_a_grant_that_is_near(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="5/minute") as world:
        [process] = world.processes
        assert await world.spend(process, READ) == 4
        world.move(60.25)
        assert await world.take(process, READ) is None
        assert world.slept == [pytest.approx(0.75 + 0.025)]


@pytest.mark.parametrize("urgency", [URGENT, READ])
async def test_a_grant_that_is_too_far_is_not_waited_for(valkey: ValkeyServer, urgency: Urgency) -> None:
    async with world_of(valkey, processes=1, quota="1/minute") as world:
        [process] = world.processes
        assert await world.take(process, urgency) is None
        world.move(58.5)
        refusal = await world.take(process, urgency)
        assert refusal is not None
        assert refusal.retry_after == 3
        assert world.slept == []


async def test_background_work_never_waits(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="1/minute") as world:
        [process] = world.processes
        await world.take(process, BACKGROUND)
        world.move(60.99)
        refusal = await world.take(process, BACKGROUND)
        assert refusal is not None
        assert refusal.retry_after == 1
        assert world.slept == []


async def test_who_waits_and_is_overtaken_waits_again_but_not_beyond_a_second_in_all(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2, quota="3/minute") as world:
        slow, quick = world.processes
        for pause in (0.4, 0.5, 0.0):
            assert await world.take(quick, URGENT) is None
            world.move(pause)
        world.move(59.6)  # 60.5 after the first
        world.moved_by_sleepers = False
        waiting = asyncio.create_task(world.take(slow, URGENT))
        for pause in (0.5, 0.375):  # each time that one comes free, the other is quicker
            await world.sleeping(1)
            world.move(pause)
            assert await world.take(quick, URGENT) is None
            world.move(0.025)
        refusal = await waiting
        assert refusal is not None
        assert refusal.retry_after == 1
        assert world.slept == [pytest.approx(0.525), pytest.approx(0.4)]


async def test_a_cancelled_wait_takes_nothing(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="1/minute") as world:
        [process] = world.processes
        await world.take(process, URGENT)
        world.move(60.5)
        world.moved_by_sleepers = False
        waiting = asyncio.create_task(process.budget.take(URGENT))
        await world.sleeping(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        world.move(0.5)
        assert await world.take(process, URGENT) is None


async def test_a_throttle_halves_the_budget_of_every_process_for_a_minute(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2) as world:
        first, second = world.processes
        await first.budget.throttled()
        assert first.budget.state == BudgetState(45, 45, "redis")
        assert await world.spend(second, BACKGROUND) == 9
        assert await world.spend(second, READ) == 36 - 9
        assert await world.spend(second, URGENT) == 45 - 36
        assert await world.spend(first, URGENT) == 0
        assert second.gauges() == (45, 0)
        world.move(59.9)
        assert await world.spend(second, BACKGROUND) == 0
        world.move(0.1)
        assert await world.spend(second, URGENT, 45) == 45
        assert second.budget.state == BudgetState(90, 0, "redis")


async def test_a_throttle_lasts_a_minute_from_the_last_one(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=3) as world:
        first, second, _ = world.processes
        await first.budget.throttled()
        await world.pass_(30)
        await second.budget.throttled()
        await world.pass_(59)
        assert {process.budget.state.limit for process in world.processes} == {45}
        await world.pass_(1)
        assert {process.budget.state.limit for process in world.processes} == {90}


async def test_asking_does_not_prolong_a_throttle_however_long_answers_take(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2) as world:
        delays = itertools.cycle([0.0, 0.0, 0.2, 0.2])
        for process in world.processes:
            script = process.budget._ledger._script

            async def slow(*args: Any, script: Any = script) -> Any:
                world.move(next(delays))
                return await script(*args)

            process.budget._ledger._script = slow
        await world.processes[0].budget.throttled()
        until = world.elapsed + 60.5
        while world.elapsed < until:
            for process in world.processes:
                await process.look()
        assert {process.budget.state.limit for process in world.processes} == {90}


async def test_a_throttle_when_more_than_half_is_spent_leaves_nothing_until_enough_has_passed(
    valkey: ValkeyServer,
) -> None:
    async with world_of(valkey, processes=1, quota="4/minute") as world:
        [process] = world.processes
        for _ in range(4):
            assert await world.take(process, URGENT) is None
            world.move(10)
        await process.budget.throttled()
        assert process.gauges() == (2, 0)
        refusal = await world.take(process, URGENT)
        assert refusal is not None
        assert refusal.retry_after == 41  # when the third is gone
        world.move(41)
        assert process.budget.state.remaining == 0
        assert await world.take(process, URGENT) is None


async def test_the_gauges_follow_every_decision_and_every_look(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2, quota="10/minute") as world:
        first, second = world.processes
        assert first.gauges() == (10, 10)
        await world.spend(first, URGENT, 3)
        assert first.gauges() == (10, 7)
        assert second.gauges() == (10, 10)
        await second.look()
        assert second.gauges() == (10, 7)
        await world.spend(second, URGENT)
        assert second.gauges() == (10, 0)
        assert second.budget.state == BudgetState(10, 0, "redis")


async def test_an_idle_process_looks_every_five_seconds_and_takes_nothing(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2, quota="10/minute") as world:
        idle, busy = world.processes
        world.moved_by_sleepers = False
        await idle.budget.start()
        await world.sleeping(1)
        await world.spend(busy, URGENT, 4)
        for seconds in range(1, 6):
            for _ in range(4):
                world.move(0.25)
                await world.sleeping(1)
            assert idle.gauges() == (10, 6 if seconds == 5 else 10)
        assert world.client.zcard("qpg:{budget:acct}:all") == 4
        await idle.budget.close()
        await idle.budget.close()


@pytest.mark.parametrize(("urgency", "granted"), [(URGENT, 90), (READ, 72), (BACKGROUND, 18)])
async def test_two_hundred_at_once_over_four_processes_get_exactly_the_budget(
    valkey: ValkeyServer, urgency: Urgency, granted: int
) -> None:
    async with world_of(valkey, processes=4) as world:
        refusals = await asyncio.gather(*(world.take(world.processes[n % 4], urgency) for n in range(200)))
        assert refusals.count(None) == granted


async def test_a_fleet_that_starts_on_an_empty_redis_takes_its_shares_first_and_then_all(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=4, settled=False) as world:
        takes = (world.take(world.processes[n % 2], URGENT) for n in range(200))
        assert (await asyncio.gather(*takes)).count(None) == 2 * 22
        await world.pass_(NEW)
        assert await world.spend(world.processes[0], URGENT) == 90 - 2 * 22


async def test_a_single_process_has_all_of_a_fresh_budget_at_once(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, settled=False) as world:
        takes = (world.take(world.processes[0], URGENT) for _ in range(200))
        assert (await asyncio.gather(*takes)).count(None) == 90


async def test_asks_of_one_moment_share_a_script_and_each_gets_its_own_answer(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1) as world:
        [process] = world.processes
        before = scripts_run(world)
        urgencies = [BACKGROUND] * 19 + [READ] * 3 + [URGENT] * 2
        refusals = await asyncio.gather(*(world.take(process, urgency) for urgency in urgencies))
        assert scripts_run(world) - before == 1
        assert [number for number, refusal in enumerate(refusals) if refusal is not None] == [18]
        assert process.gauges() == (90, 90 - 23)
        assert world.client.zcard("qpg:{budget:acct}:all") == 23, "each grant has an id of its own"


async def test_of_many_asks_of_one_moment_no_script_decides_too_many(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="200/minute") as world:
        [process] = world.processes
        before = scripts_run(world)
        refusals = await asyncio.gather(*(world.take(process, URGENT) for _ in range(2 * MOST_AT_ONCE + 1)))
        assert scripts_run(world) - before == 3
        assert refusals == [None] * (2 * MOST_AT_ONCE + 1)


def scripts_run(world: World) -> int:
    statistics: Any = world.client.info("commandstats")
    return int(statistics["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("under_way", [True, False])
async def test_who_gives_up_asking_takes_nobody_with_them(valkey: ValkeyServer, under_way: bool) -> None:
    async with world_of(valkey, processes=1) as world:
        [process] = world.processes
        gone = asyncio.create_task(process.budget.take(URGENT))
        stays = asyncio.create_task(process.budget.take(URGENT))
        for _ in range(3 if under_way else 1):
            await asyncio.sleep(0)
        gone.cancel()
        await stays
        with pytest.raises(asyncio.CancelledError):
            await gone
        # A call that is cancelled while Redis decides may have been granted; nobody counts on it here.
        assert world.client.zcard("qpg:{budget:acct}:all") == (2 if under_way else 1)
        assert len(process.budget._share.newest(9)) == 1


async def test_who_gives_up_while_grants_are_reported_is_granted_nothing(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1) as world:
        [process] = world.processes
        world.client.flushall()
        world.tell_redis()
        process.budget._share.add(Grant("earlier", 1, world.elapsed))
        asks = [asyncio.create_task(process.budget.take(URGENT)) for _ in range(2)]
        ledger = process.budget._ledger
        report = ledger._report

        async def report_and_cancel(*args: Any) -> None:
            asks[0].cancel()
            await report(*args)

        ledger._report = report_and_cancel
        await asks[1]
        assert asks[0].cancelled()
        assert world.client.zcard("qpg:{budget:acct}:all") == 2


def oracle_caps(amount: int, throttled: bool) -> dict[Urgency, int]:
    """Say what each urgency may use, counted with all that are less urgent."""
    amount = max(1, amount // 2) if throttled else amount
    return {URGENT: amount, READ: max(1, math.floor(amount * 0.8)), BACKGROUND: max(1, math.floor(amount * 0.2))}


LESS_URGENT = {URGENT: (URGENT, READ, BACKGROUND), READ: (READ, BACKGROUND), BACKGROUND: (BACKGROUND,)}
on_a_shared_server = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
takes = st.tuples(st.just("take"), st.integers(0, 2), st.sampled_from(list(Urgency)))
bursts = st.tuples(st.just("burst"), st.integers(0, 2), st.sampled_from(list(Urgency)))
passes = st.tuples(
    st.just("pass"),
    st.just(0),
    st.one_of(st.floats(0, 2), st.floats(0, 25), st.sampled_from([1.0, 60.0, 60.999999, 61.0])),
)
throttles = st.tuples(st.just("throttled"), st.integers(0, 2), st.none())


@on_a_shared_server
@given(
    amount=st.integers(1, 12),
    processes=st.integers(1, 3),
    steps=st.lists(st.one_of(takes, bursts, takes, bursts, passes, passes, throttles), min_size=5, max_size=40),
)
def test_no_minute_is_ever_over_and_nothing_is_refused_while_there_is_room(
    valkey: ValkeyServer, amount: int, processes: int, steps: list[tuple[str, int, Any]]
) -> None:
    async def run() -> None:
        async with world_of(valkey, processes=processes, quota=f"{amount}/minute") as world:
            throttled_until = -math.inf
            for kind, number, what in steps:
                process = world.processes[number % processes]
                if kind == "pass":
                    world.move(what)
                elif kind == "throttled":
                    await process.budget.throttled()
                    throttled_until = world.elapsed + 60
                else:
                    for _ in range(1 if kind == "take" else amount):
                        refusal = await world.take(process, what)
                        # Redis counts in microseconds, so what happens within a few of them may fall either way.
                        near = -BLUR if refusal is None else BLUR
                        caps = oracle_caps(amount, throttled=world.elapsed < throttled_until + near)
                        used = {u: world.recent(61 + near, *LESS_URGENT[u]) for u in Urgency}
                        concerned = [u for u in Urgency if what in LESS_URGENT[u]]
                        if refusal is None:
                            assert all(used[u] <= caps[u] for u in concerned)
                        else:
                            assert any(used[u] >= caps[u] for u in concerned)
            caps = oracle_caps(amount, throttled=False)
            assert all(world.most_in_a_minute(LESS_URGENT[u]) <= caps[u] for u in Urgency)

    asyncio.run(run())


@on_a_shared_server
@given(
    amount=st.integers(3, 20),
    processes=st.integers(1, 3),
    steps=st.lists(
        st.one_of(
            takes,
            bursts,
            bursts,
            passes,
            st.tuples(st.just("set clock"), st.just(0), st.one_of(st.floats(-200, -2), st.floats(2, 200))),
        ),
        min_size=5,
        max_size=30,
    ),
)
def test_a_server_clock_that_is_set_neither_grants_beyond_nor_locks_out(
    valkey: ValkeyServer, amount: int, processes: int, steps: list[tuple[str, int, Any]]
) -> None:
    async def run() -> None:
        async with world_of(valkey, processes=processes, quota=f"{amount}/minute") as world:
            for kind, number, what in steps:
                if kind == "pass":
                    await world.pass_(what)
                elif kind == "set clock":
                    await world.pass_(0.001)  # what is granted after a look is a known gap
                    world.set_redis_clock(what)
                else:
                    await world.spend(world.processes[number % processes], what, 1 if kind == "take" else amount)
            assert world.most_in_a_minute() <= amount
            await world.pass_(61 + NEW)
            assert await world.spend(world.processes[0], URGENT) == amount

    asyncio.run(run())


async def meet(world: World, kind: str, number: int, what: Any) -> None:
    """Take, let time pass, cut all off from Redis, let all back, or lose its data while it is there.

    What others were granted after a process last looked is a known gap, so here all look before a fault.
    """
    cut = world.processes[0].store.cut
    if kind == "pass":
        await world.pass_(what)
    elif kind == "cut" and not cut:
        await world.look()
        for process in world.processes:
            process.store.cut = what
        await world.look()  # each notices
    elif kind == "back" and cut:
        world.forget(what)
        for process in world.processes:
            process.store.cut = None
    elif kind == "lose" and not cut:
        await world.look()
        world.forget("all")
    elif kind in {"take", "burst"}:
        process = world.processes[number % len(world.processes)]
        await world.spend(process, what, 1 if kind == "take" else world.quota.amount)


cuts = st.tuples(st.just("cut"), st.just(0), st.sampled_from(["command", "reply"]))
returns = st.tuples(st.just("back"), st.just(0), st.sampled_from(["nothing", "newest", "all"]))
losses = st.tuples(st.just("lose"), st.just(0), st.none())


@on_a_shared_server
@given(
    amount=st.integers(3, 24),
    processes=st.integers(1, 3),
    steps=st.lists(st.one_of(takes, bursts, bursts, passes, passes, cuts, returns, losses), min_size=5, max_size=40),
)
def test_no_minute_is_over_through_outages_and_losses_of_data(
    valkey: ValkeyServer, amount: int, processes: int, steps: list[tuple[str, int, Any]]
) -> None:
    async def run() -> None:
        async with world_of(valkey, processes=processes, quota=f"{amount}/minute") as world:
            for step in steps:
                await meet(world, *step)
            assert world.most_in_a_minute() <= amount
            assert world.most_in_a_minute((READ, BACKGROUND)) <= max(processes, amount * 4 // 5)
            assert world.most_in_a_minute((BACKGROUND,)) <= max(processes, amount // 5)
            await meet(world, "back", 0, "nothing")
            await world.pass_(61 + NEW)
            assert await world.spend(world.processes[-1], URGENT) == amount

    asyncio.run(run())


async def back(world: World) -> None:
    """Wait until every process uses Redis again."""
    async with asyncio.timeout(10):
        world.tell_redis()
        for process in world.processes:
            while process.budget.state.store == "local":
                await asyncio.sleep(0.01)
                await process.look()
    await world.look()  # once more, now that all have reported


async def without_redis(world: World, process: Process, urgency: Urgency) -> int:
    """Spend what a process has, each decision within a very generous reading of 100 ms."""
    for count in range(1000):
        started = time.perf_counter()
        refusal = await world.take(process, urgency)
        assert time.perf_counter() - started < 1
        assert process.budget.state.store == "local"
        if refusal is not None:
            return count
    return 1000


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_redis_each_process_goes_on_with_its_share(valkey_factory: ValkeyFactory, fault: str) -> None:
    server = valkey_factory()
    async with world_of(server, processes=4, quota="80/minute", patient=False) as world:
        server.kill() if fault == "killed" else server.pause()
        first, *others = world.processes
        assert await without_redis(world, first, BACKGROUND) == 4
        assert await without_redis(world, first, READ) == 16 - 4
        assert await without_redis(world, first, URGENT) == 20 - 16
        assert first.budget.state == BudgetState(80, 0, "local")
        assert first.gauges() == (80, 0)
        assert [await without_redis(world, other, URGENT) for other in others] == [20, 20, 20]

        world.move(30, redis_there=False)
        server.restart() if fault == "killed" else server.resume()
        await back(world)
        assert first.budget.state == BudgetState(80, 0, "redis")
        assert await world.spend(first, URGENT) == 0
        await world.pass_(31)
        assert await world.spend(first, URGENT) == 80


async def test_what_others_had_spent_is_not_spent_again_without_redis(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with world_of(server, processes=4, quota="80/minute", patient=False) as world:
        busy, *others = world.processes
        assert await world.spend(busy, URGENT, 60) == 60
        await world.pass_(1)
        server.kill()
        assert await without_redis(world, busy, URGENT) == 0
        assert [await without_redis(world, other, URGENT) for other in others] == [5, 5, 5]
        assert others[0].gauges() == (80, 0)
        world.move(61, redis_there=False)
        assert await without_redis(world, busy, URGENT) == 20


@pytest.mark.parametrize("settled", [True, False])
async def test_a_budget_starts_without_redis_and_moves_over_to_it(valkey_factory: ValkeyFactory, settled: bool) -> None:
    server = valkey_factory()
    async with world_of(server, processes=2, quota="10/minute", settled=settled, patient=False) as world:
        server.kill()
        for process in world.processes:
            await process.look()
            assert process.gauges() == (10, 10)
            assert await without_redis(world, process, URGENT) == 5
            refusal = await world.take(process, URGENT)
            assert refusal is not None
            assert refusal.retry_after == 61
        server.restart()
        world.move(1)
        await back(world)
        assert [process.gauges() for process in world.processes] == [(10, 0), (10, 0)]


async def test_after_a_flush_everything_is_reported_and_nothing_granted_twice(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=4, quota="80/minute") as world:
        for process in world.processes:
            assert await world.spend(process, READ, 15) == 15
        await world.pass_(1)
        world.client.flushall()
        world.tell_redis()
        assert await world.spend(world.processes[0], URGENT) == 20 // 4
        await world.pass_(NEW)
        assert {process.budget.state for process in world.processes} == {BudgetState(80, 15, "redis")}
        assert await world.spend(world.processes[1], READ) == 4
        assert await world.spend(world.processes[1], URGENT) == 11
        world.move(60 - NEW)
        assert world.most_in_a_minute() == 80


async def test_more_grants_than_fit_one_report_are_all_reported(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="3000/hour") as world:
        [process] = world.processes
        process.store.cut = "command"
        assert await world.spend(process, URGENT, 2500) == 2500
        process.store.cut = None
        await process.look()
        assert process.budget.state == BudgetState(3000, 500, "redis")
        assert world.client.zcard("qpg:{budget:acct}:all") == 2500


async def test_data_that_is_lost_while_reporting_is_reported_again(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="3000/hour") as world:
        [process] = world.processes
        process.store.cut = "command"
        assert await world.spend(process, URGENT, 1500) == 1500
        process.store.cut = None
        ledger, sends = process.budget._ledger, 0
        send = ledger._send

        async def send_and_lose(*args: Any) -> Any:
            nonlocal sends
            sends += 1
            if sends == 3:  # after the first half of the report
                world.client.flushall()
                world.move(0.001)
            return await send(*args)

        ledger._send = send_and_lose
        await process.look()
        assert process.budget.state == BudgetState(3000, 1500, "redis")


async def test_what_was_taken_alone_during_a_report_is_reported_too(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="10/minute") as world:
        [process] = world.processes
        process.store.cut = "command"
        assert await world.spend(process, URGENT, 3) == 3
        process.store.cut = None
        ledger, sends = process.budget._ledger, 0
        send = ledger._send

        async def fail_meanwhile(*args: Any) -> Any:
            nonlocal sends
            sends += 1
            if sends == 2:  # the report
                process.store.cut = "command"
                assert await world.take(process, URGENT) is None
                process.store.cut = None
            return await send(*args)

        ledger._send = fail_meanwhile
        await process.look()
        await process.look()
        assert process.budget.state == BudgetState(10, 6, "redis")


async def test_a_report_at_the_moment_in_which_others_fail_is_repeated_for_what_they_take_alone(
    valkey: ValkeyServer,
) -> None:
    async with world_of(valkey, processes=1, quota="10/minute") as world:
        [process] = world.processes
        ledger, run, under_way, fails = process.budget._ledger, process.store.run, asyncio.Event(), asyncio.Event()
        report = ledger._report

        async def fail(command: Any) -> Any:
            process.store.run = run
            under_way.set()
            await fails.wait()
            raise StorageUnavailable(retry_after=1)

        async def report_as_it_fails(*args: Any) -> None:
            fails.set()
            await asyncio.sleep(0)  # the script has failed, and who asked does not know yet
            await report(*args)

        process.store.run, ledger._report = fail, report_as_it_fails
        alone = asyncio.create_task(world.take(process, URGENT))
        await under_way.wait()
        world.client.flushall()
        world.tell_redis()
        await process.look()
        assert await alone is None
        await process.look()
        assert process.budget.state == BudgetState(10, 9, "redis")


async def test_a_lost_reply_counts_its_call_once(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="10/minute") as world:
        [process] = world.processes
        process.store.cut = "reply"
        assert await world.spend(process, URGENT, 4) == 4
        process.store.cut = None
        await process.look()
        assert process.budget.state == BudgetState(10, 6, "redis")


async def test_a_command_that_a_frozen_redis_runs_late_takes_nothing(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="10/minute") as world:
        [process] = world.processes
        commands: list[list[Any]] = []
        script = process.budget._ledger._script

        async def record(client: Any, keys: list[Any], args: list[Any]) -> Any:
            commands.append([script.text, len(keys), *keys, *args])
            return await script(client, keys, args)

        process.budget._ledger._script = record
        assert await world.take(process, URGENT) is None
        [command] = commands
        command[-1] = " ".join(["late", *command[-1].split()[1:]])  # another ask
        world.move(2)
        _, _, _, wait, *_ = world.client.eval(*command)
        assert wait == -1
        assert world.client.zcard("qpg:{budget:acct}:all") == 1


async def test_a_throttle_that_redis_could_not_be_told_is_told_later(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=2, quota="10/minute") as world:
        first, second = world.processes
        first.store.cut = "command"
        await first.budget.throttled()
        assert first.budget.state == BudgetState(5, 4, "local")  # two each
        first.store.cut = None
        await world.pass_(5)
        assert second.budget.state.limit == 5
        second.store.cut = "command"
        await second.look()
        assert second.budget.state == BudgetState(5, 4, "local")
        world.move(56)
        await second.look()
        assert second.budget.state.limit == 10


async def test_who_could_not_reach_redis_looks_again_as_soon_as_the_store_probes(valkey: ValkeyServer) -> None:
    async with world_of(valkey, processes=1, quota="10/minute") as world:
        [process] = world.processes
        world.moved_by_sleepers = False
        await process.budget.start()
        await world.sleeping(1)
        process.store.cut = "command"
        assert await world.take(process, URGENT) is None
        world.client.delete("qpg:{budget:acct}:all")
        process.store.cut = None
        world.move(0.25)
        await world.sleeping(1)
        assert process.budget.state == BudgetState(10, 9, "redis")


async def test_a_clock_set_back_by_a_year_holds_a_grant_for_one_span_even_if_its_process_is_gone(
    valkey: ValkeyServer,
) -> None:
    async with world_of(valkey, processes=2, quota="10/minute") as world:
        first, second = world.processes
        assert await world.spend(first, URGENT, 10) == 10
        await first.budget.throttled()
        world.set_redis_clock(-365 * 86400)
        world.processes.remove(first)
        await second.look()
        await world.pass_(59)
        assert second.budget.state == BudgetState(5, 0, "redis")
        await world.pass_(2)
        assert second.budget.state == BudgetState(10, 10, "redis")
        await first.store.close()
