"""The limiter on a real Valkey: exact against two oracles, over processes, and while Redis is away."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from importlib.resources import files
from itertools import groupby

import pytest
import redis
import throttled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.access.limits import Decision, Limit, Limits, client_limit, ip_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import MOST_AT_ONCE, RedisLimiter
from gateway.clock import SystemClock
from gateway.quota import Quota
from gateway.store import batch
from gateway.store.client import DEADLINE, connect
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.decisions import remaining, resets_after
from tests.plugins.gateway import PATIENCE
from tests.plugins.valkey import ValkeyServer

ValkeyFactory = Callable[[], ValkeyServer]

MICROSECONDS = 1_000_000
START = 1_775_000_000 * MICROSECONDS
"""A time of 2026, as Redis's clock gives it: integers of that size must stay exact."""

BEFORE_SCRIPT = """
-- Runs limits.lua once for every step, each at a time of its own. `redis` is shadowed by a twin that gives that
-- time, and all steps run in one script, during which no key expires by the real clock.
local function limits(KEYS, ARGV, redis)
"""
AFTER_SCRIPT = """
end
local outcomes = {}
for _, step in ipairs(cjson.decode(ARGV[1])) do
  local keys = {}
  for i, n in ipairs(step.keys) do keys[i] = KEYS[n] end
  local twin = {call = function(name, ...)
    if name == "TIME" then return {step.second, step.microsecond} end
    return redis.call(name, ...)
  end}
  table.insert(outcomes, limits(keys, step.args, twin))
end
return outcomes
"""
REPLAY = BEFORE_SCRIPT + files("gateway.access").joinpath("limits.lua").read_text() + AFTER_SCRIPT


@dataclass(frozen=True)
class Step:
    """A request at a time (µs) against some limits, by their number."""

    now: int
    limits: Sequence[tuple[int, Quota]]


def replay(client: redis.Redis, steps: Sequence[Step], *, together: bool = False) -> list[tuple[bool, list[Fraction]]]:
    """Return for every step whether it was allowed, and each TAT's distance from now in microseconds.

    Each step is a call of the script; `together`, those at the same time are one.
    """
    client.flushall()
    keys = [f"qpg:{{c}}:{n}" for n in range(3)]
    calls = [list(same) for _, same in groupby(steps, key=lambda step: step.now if together else id(step))]
    runs = [[list(same) for _, same in groupby(call)] for call in calls]
    plan = [
        {
            "second": str(call[0].now // MICROSECONDS),
            "microsecond": str(call[0].now % MICROSECONDS),
            "keys": [1, 2, 3],
            "args": [json.dumps([n for same in kinds for n in numbers_of(same[0], count=len(same))])],
        }
        for call, kinds in zip(calls, runs, strict=True)
    ]
    outcomes = client.eval(REPLAY, len(keys), *keys, json.dumps(plan))
    decided = []
    for kinds, outcome in zip(runs, outcomes, strict=True):
        numbers = iter(outcome)
        for same in kinds:
            taken = next(numbers)
            quotas = [quota for _, quota in same[0].limits]
            tats = [Fraction(next(numbers)) + Fraction(next(numbers), quota.amount) for quota in quotas]
            intervals = [Fraction(quota.window * MICROSECONDS, quota.amount) for quota in quotas]
            for number in range(1, len(same) + 1):
                cost = min(number, taken)
                after = [tat + cost * interval for tat, interval in zip(tats, intervals, strict=True)]
                decided.append((number <= taken, after))
        assert not list(numbers)
    return decided


def numbers_of(step: Step, *, count: int, in_advance: int = 0) -> list[int]:
    limits = [(number + 1, quota.amount, quota.window * MICROSECONDS) for number, quota in step.limits]
    return [count, in_advance, len(limits), *(n for limit in limits for n in limit)]


class ExactGcra:
    """GCRA by the book, in fractions: the oracle."""

    def __init__(self) -> None:
        self.tats: dict[int, Fraction] = {}

    def take(self, step: Step) -> tuple[bool, list[Fraction]]:
        now, before, after = Fraction(step.now), {}, {}
        for number, quota in step.limits:
            window = quota.window * MICROSECONDS
            if number in self.tats:  # a clock set back is mended for good, even if the request is refused
                self.tats[number] = min(self.tats[number], now + window)
            before[number] = max(self.tats.get(number, now), now)
            after[number] = before[number] + Fraction(window, quota.amount)
        allowed = all(after[n] <= now + quota.window * MICROSECONDS for n, quota in step.limits)
        if allowed:
            self.tats.update(after)
        return allowed, [(after if allowed else before)[number] - now for number, _ in step.limits]


quotas = st.builds(
    Quota,
    st.one_of(st.integers(1, 12), st.integers(1, 999_999_999)),
    st.sampled_from([1, 60, 3600]),
)


@st.composite
def histories(draw: st.DrawFn, *, backwards: bool = False) -> list[Step]:
    """Requests against up to three limits, in bursts and with pauses; `backwards`, the clock is set back too."""
    limits = draw(st.lists(quotas, min_size=1, max_size=3))
    gaps = [st.just(0), st.integers(0, 2_000), st.integers(0, 3 * MICROSECONDS), st.integers(0, 4_000 * MICROSECONDS)]
    if backwards:
        gaps.append(st.integers(-10_000 * MICROSECONDS, 0))
    chosen = st.lists(st.sampled_from(range(len(limits))), min_size=1, unique=True)
    now, steps = START + draw(st.integers(0, MICROSECONDS)), []
    for gap, numbers in draw(st.lists(st.tuples(st.one_of(gaps), chosen), min_size=1, max_size=60)):
        now += gap
        steps.append(Step(now, [(number, limits[number]) for number in numbers]))
    return steps


on_a_shared_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@on_a_shared_server
@given(steps=st.one_of(histories(), histories(backwards=True)))
def test_the_script_equals_exact_gcra_over_one_to_three_limits(valkey: ValkeyServer, steps: list[Step]) -> None:
    oracle = ExactGcra()
    with valkey.client() as client:
        assert replay(client, steps) == [oracle.take(step) for step in steps]


@on_a_shared_server
@given(steps=histories())
def test_requests_in_one_call_are_decided_as_if_they_came_one_by_one(valkey: ValkeyServer, steps: list[Step]) -> None:
    with valkey.client() as client:
        assert replay(client, steps, together=True) == replay(client, steps)


@on_a_shared_server
@given(
    quota=st.sampled_from([Quota(8, 1), Quota(64, 1), Quota(1, 1), Quota(15, 60), Quota(60, 60), Quota(225, 3600)]),
    gaps=st.lists(st.one_of(st.just(0), st.integers(0, 64), st.integers(0, 64 * 300)), max_size=150),
)
def test_the_script_equals_throttled_where_floats_are_exact(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, quota: Quota, gaps: list[int]
) -> None:
    # Quotas whose interval is a binary fraction, at times in 64ths of a second: throttled-py computes in floats.
    rate = throttled.Rate(timedelta(seconds=quota.window), quota.amount)
    other = throttled.Throttled(
        key="c", using="gcra", quota=throttled.Quota(rate, burst=quota.amount), store=throttled.MemoryStore()
    )
    seconds, steps, expected = 1_000_000.0, [], []
    with monkeypatch.context() as patch:
        patch.setattr(throttled.utils, "now_mono_f", lambda: seconds)
        for gap in gaps:
            seconds += gap / 64
            steps.append(Step(round(seconds * MICROSECONDS), [(0, quota)]))
            expected.append(other.limit())
    with valkey.client() as client:
        outcomes = replay(client, steps)
    assert [allowed for allowed, _ in outcomes] == [not result.limited for result in expected]
    assert [float(tat) / MICROSECONDS for _, [tat] in outcomes] == [r.state.reset_after for r in expected]


@pytest.mark.parametrize("quota", [Quota(7, 60), Quota(11, 1), Quota(7, 3600), Quota(600, 60)], ids=str)
def test_no_rate_drifts_over_many_requests(valkey: ValkeyServer, quota: Quota) -> None:
    interval = Fraction(quota.window * MICROSECONDS, quota.amount)
    steps = [Step(START, [(0, quota)])] * quota.amount
    for n in range(1, 10_000):  # the nth comes free after n intervals, and not a microsecond earlier
        due = START + -int(-n * interval // 1)
        steps += [Step(due - 1, [(0, quota)]), Step(due, [(0, quota)])]
    with valkey.client() as client:
        allowed = [allowed for allowed, _ in replay(client, steps)]
    assert allowed == [True] * quota.amount + [False, True] * 9_999


@pytest.mark.parametrize(("in_advance", "given"), [(0, 0), (7, 7), (8, 0)])
def test_in_advance_all_or_none_are_taken_and_nine_tenths_are_left(
    valkey: ValkeyServer, in_advance: int, given: int
) -> None:
    step = Step(START, [(0, Quota(1_000, 60)), (1, Quota(100, 1))])
    plan = [{"second": "1775000000", "microsecond": "0", "keys": [1, 2]}]
    plan[0]["args"] = [json.dumps(numbers_of(step, count=3, in_advance=in_advance))]
    with valkey.client() as client:
        [[taken, *backlogs]] = client.eval(REPLAY, 2, "qpg:{c}:0", "qpg:{c}:1", json.dumps(plan))
    assert taken == 3 + given
    assert backlogs == [0] * 4


def test_a_clock_set_back_locks_nobody_out(valkey: ValkeyServer) -> None:
    quota, hour = Quota(60, 60), 3600 * MICROSECONDS
    spent = [Step(START, [(0, quota)])] * 60
    back = [Step(START - hour + n * MICROSECONDS, [(0, quota)]) for n in range(5)]
    with valkey.client() as client:
        allowed = [allowed for allowed, _ in replay(client, [*spent, *back])]
    assert allowed == [True] * 60 + [False] + [True] * 4


def test_a_changed_quota_keeps_what_was_used(valkey: ValkeyServer) -> None:
    slow, fast = Quota(7, 3600), Quota(3, 1)
    steps = [Step(START, [(0, slow)])] * 7 + [Step(START + n * MICROSECONDS, [(0, fast)]) for n in range(3)]
    with valkey.client() as client:
        allowed = [allowed for allowed, _ in replay(client, steps)]
    assert allowed == [True] * 7 + [False, True, True]


@asynccontextmanager
async def limiter_on(
    url: str, *, processes: int = 1, clock: SystemClock | None = None, deadline: float = PATIENCE
) -> AsyncIterator[tuple[RedisLimiter, Store, Metrics]]:
    clock, metrics = clock or SystemClock(), Metrics()
    store = Store(connect(url, deadline=deadline), clock=clock, metrics=metrics, deadline=deadline)
    await store.start()
    try:
        yield RedisLimiter(store, LocalLimiter(clock, lambda: processes), clock=clock, metrics=metrics), store, metrics
    finally:
        await store.close()


class SetClock(SystemClock):
    """Time that somebody else sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def reply_of(numbers: list[int]) -> Callable[..., Awaitable[list[int]]]:
    """Stand in for the script with one reply."""

    async def script(*_: object) -> list[int]:
        return numbers

    return script


class MovedClock(SystemClock):
    """The machine's clock, put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def counted(metrics: Metrics, limit: str, decision: str, store: str) -> float:
    labels = {"limit": limit, "decision": decision, "store": store}
    value = metrics.registry.get_sample_value("gateway_rate_limit_decisions_total", labels)
    assert value is not None
    return value


def limit(text: str, client: str = "orders") -> Limit:
    return client_limit(client, Quota.parse(text))


def address_limit(text: str) -> Limit:
    return ip_limit("orders", "192.0.2.1", Quota.parse(text))


async def test_a_first_request_gets_the_headers_of_the_interface(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, metrics):
        decision = await limiter.take(Limits(limit("600/minute")))
        assert (decision.allowed, decision.store, decision.retry_after) == (True, "redis", 0)
        assert decision.headers() == [
            (b"ratelimit-policy", b'"orders";q=600;w=60'),
            (b"ratelimit", b'"orders";r=599;t=1'),
        ]
        assert counted(metrics, "client", "allowed", "redis") == 1
    with valkey.client() as client:
        assert 0 < client.pttl("qpg:{orders}:rate:client") <= 101


async def test_a_refusal_says_when_to_come_back_and_by_which_limit(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, metrics):
        limits = Limits(address_limit("2/hour"), limit("600/minute"))
        for _ in range(2):
            assert (await limiter.take(limits)).allowed
        refusals = [await limiter.take(limits) for _ in range(30)]
        for refusal in refusals:
            assert (refusal.allowed, refusal.refused_by) == (False, limits.each[0])
            assert 1799 < refusal.retry_after <= 1800
            assert refusal.retry_after_seconds == 1800
            assert remaining(refusal)[0] == 0
            assert remaining(refusal)[1] >= 598  # refused requests cost nothing
        assert counted(metrics, "ip", "allowed", "redis") == counted(metrics, "client", "allowed", "redis") == 2
        assert counted(metrics, "ip", "refused", "redis") == 30
        assert counted(metrics, "client", "refused", "redis") == 0


async def test_clients_have_limits_of_their_own(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, _metrics):
        assert (await limiter.take(Limits(limit("1/hour", "a")))).allowed
        assert not (await limiter.take(Limits(limit("1/hour", "a")))).allowed
        assert (await limiter.take(Limits(limit("1/hour", "b")))).allowed
        assert (await limiter.take(Limits())).allowed


def scripts_run(client: redis.Redis) -> int:
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


async def test_requests_at_the_same_time_share_a_call_and_each_gets_its_own_answer(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, _metrics):
        await limiter.take(Limits(limit("1/hour", "warm-up")))
        with valkey.client() as client:
            before = scripts_run(client)
            asked = [
                Limits(*each)
                for _ in range(4)
                for each in ([limit("3/hour", "a")], [address_limit("9/hour"), limit("5/hour")], [limit("1/hour", "b")])
            ]
            decisions = await asyncio.gather(*(limiter.take(limits) for limits in asked))
            assert scripts_run(client) - before == 1
    allowed = [decision.allowed for decision in decisions]
    assert (sum(allowed[0::3]), sum(allowed[1::3]), sum(allowed[2::3])) == (3, 4, 1)
    for limits, decision in zip(asked, decisions, strict=True):
        assert decision.limits.each == limits.each


async def test_of_many_at_the_same_time_no_call_decides_too_many(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, _metrics):
        await limiter.take(Limits(limit("1/hour", "warm-up")))
        with valkey.client() as client:
            before = scripts_run(client)
            decisions = await asyncio.gather(
                *(limiter.take(Limits(limit("200/hour"))) for _ in range(2 * MOST_AT_ONCE + 1))
            )
            assert scripts_run(client) - before == 3
    assert sum(decision.allowed for decision in decisions) == 200


async def test_who_gives_up_waiting_takes_nobody_with_them(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url) as (limiter, _, _metrics):
        gone = asyncio.create_task(limiter.take(Limits(limit("1/hour", "a"))))
        stays = asyncio.create_task(limiter.take(Limits(limit("1/hour", "b"))))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).allowed
        with pytest.raises(asyncio.CancelledError):
            await gone


class StillClock(SystemClock):
    """Time that stands still."""

    def monotonic(self) -> float:
        return 0.0


async def test_a_busy_client_asks_redis_for_few_of_its_requests(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url, clock=StillClock()) as (limiter, _, metrics):
        wanted = Limits(limit("100000/second"))
        with valkey.client() as client:
            await limiter.take(Limits(limit("1/hour", "warm-up")))
            before = scripts_run(client)
            decisions = [await limiter.take(wanted) for _ in range(200)]
            assert scripts_run(client) - before == 9  # each time twice as many in advance: 0, 1, 2, 4, …, 128
        assert all(decision.allowed and decision.store == "redis" for decision in decisions)
        assert counted(metrics, "client", "allowed", "redis") == 201
        # Each says what it left, as if it had asked by itself.
        left = [remaining(decision)[0] for decision in decisions[136:]]
        assert left == list(range(left[0], left[0] - len(left), -1))


async def test_requests_that_wait_use_the_permits_that_come_meanwhile(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine is: else a batch that takes 5 ms holds up the next no longer, and that one asks, too.
    monkeypatch.setattr(batch, "PATIENCE", PATIENCE)
    async with limiter_on(valkey.url, clock=StillClock()) as (limiter, _, _metrics):
        wanted = Limits(limit("100000/second"))
        for _ in range(38):
            await limiter.take(wanted)  # the last of these leaves 32 in advance
        with valkey.client() as client:
            before = scripts_run(client)
            under_way = [asyncio.create_task(limiter.take(wanted)) for _ in range(33)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the last of them, which found none left, is on its way
            decisions = await asyncio.gather(*under_way, *(limiter.take(wanted) for _ in range(64)))
            assert scripts_run(client) - before == 1
        assert all(decision.allowed for decision in decisions)


async def test_a_limit_that_is_spent_gives_nothing_in_advance(valkey: ValkeyServer) -> None:
    async with limiter_on(valkey.url, clock=StillClock()) as (limiter, _, _metrics):
        wanted = Limits(limit("100/second"))
        decisions = [await limiter.take(wanted) for _ in range(150)]
        allowed = [decision.allowed for decision in decisions]
        assert 100 <= sum(allowed) < 150
        assert allowed[:100] == [True] * 100


async def test_what_many_addresses_take_in_advance_is_a_tenth_of_the_clients_limit(valkey: ValkeyServer) -> None:
    quota = Quota.parse("100/second")
    client = client_limit("shop", quota)
    visitors = [Limits(ip_limit("shop", f"192.0.2.{number}", quota), client) for number in range(60)]
    async with limiter_on(valkey.url, clock=StillClock()) as (limiter, _, _metrics):
        with valkey.client() as inspector:
            for limits in visitors:
                for _ in range(6):  # of which the last uses up two that were taken in advance
                    assert (await limiter.take(limits)).allowed
                inspector.flushall()  # as if all had come back
        decisions = await asyncio.gather(*(limiter.take(limits) for limits in visitors))
    assert all(decision.allowed for decision in decisions)
    assert min(remaining(decision)[1] for decision in decisions) >= 100 - 60 - 10


async def test_a_flood_of_refusals_asks_redis_once_a_second(valkey: ValkeyServer) -> None:
    clock = MovedClock()
    async with limiter_on(valkey.url, clock=clock) as (limiter, _, metrics):
        wanted = Limits(limit("2/hour"))
        for _ in range(2):
            assert (await limiter.take(wanted)).allowed
        first = await limiter.take(wanted)
        with valkey.client() as client:
            before = scripts_run(client)
            clock.ahead = 0.9
            later = [await limiter.take(wanted) for _ in range(50)]
            assert scripts_run(client) == before
            clock.ahead = 1.1
            assert not (await limiter.take(wanted)).allowed
            assert scripts_run(client) == before + 1
    for refusal in later:
        assert (refusal.allowed, refusal.refused_by, refusal.store) == (False, wanted.each[0], "redis")
        assert refusal.retry_after == pytest.approx(first.retry_after - 0.9, abs=0.05)
        assert resets_after(refusal)[0] == pytest.approx(resets_after(first)[0] - 0.9, abs=0.05)
        assert remaining(refusal)[0] == 0
    assert counted(metrics, "client", "refused", "redis") == 52


async def test_a_remembered_refusal_ends_when_its_time_has_come_or_the_limit_is_another(valkey: ValkeyServer) -> None:
    clock = MovedClock()
    async with limiter_on(valkey.url, clock=clock) as (limiter, _, _metrics):
        for _ in range(10):
            assert (await limiter.take(Limits(limit("10/second")))).allowed
        refused = await limiter.take(Limits(limit("10/second")))
        assert 0 < refused.retry_after <= 0.1
        with valkey.client() as client:
            before = scripts_run(client)
            await limiter.take(Limits(limit("20/second")))  # a reload has raised the limit: it is asked about
            assert scripts_run(client) == before + 1
        await asyncio.sleep(refused.retry_after + 0.06)
        assert (await limiter.take(Limits(limit("10/second")))).allowed


async def test_a_remembered_refusal_is_a_refusal_up_to_its_last_nanosecond(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the clock's float there was still time to wait, by the limit's integers there was none.
    clock = SetClock(47_569_367e-9)
    wanted = limit("20/second")
    async with limiter_on(valkey.url, clock=clock) as (limiter, _, _metrics):
        monkeypatch.setattr(limiter, "_script", reply_of([0, 977_029, 0]))
        assert not (await limiter.take(Limits(wanted))).allowed
        clock.now = (47_569_367 + 27_029_000) * 1e-9
        again = await limiter.take(Limits(wanted))
        assert (again.allowed, again.refused_by) == (False, wanted)


async def test_refusals_are_remembered_within_bounds(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.access.limits_redis.MOST_REFUSALS", 5)
    async with limiter_on(valkey.url) as (limiter, _, _metrics):
        for number in range(20):
            for _ in range(2):
                await limiter.take(Limits(limit("1/hour", f"c{number}")))
        assert len(limiter._refusals) == 5


WORKER = """
import asyncio, sys, time
from redis.asyncio import Redis
from gateway.access.limits import Limits, client_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.clock import SystemClock
from gateway.quota import Quota
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics

async def main():
    clock, metrics = SystemClock(), Metrics()
    # Patient, so that a busy machine does not send a process to its local share.
    store = Store(Redis.from_url(sys.argv[1], socket_timeout=20), clock=clock, metrics=metrics, deadline=20)
    limiter = RedisLimiter(store, LocalLimiter(clock, lambda: 1), clock=SystemClock(), metrics=metrics)
    limit = client_limit("orders", Quota.parse(sys.argv[2]))
    await store.run(lambda redis: redis.ping())
    print("ready", flush=True)
    sys.stdin.readline()
    allowed, refused, until = 0, 0, time.monotonic() + float(sys.argv[3])

    async def hammer():
        nonlocal allowed, refused
        while time.monotonic() < until:
            decision = await limiter.take(Limits(limit))
            assert decision.store == "redis"
            if decision.allowed:
                allowed += 1
            else:
                refused += 1
                await asyncio.sleep(0)  # a remembered refusal waits for nothing

    await asyncio.gather(*(hammer() for _ in range(8)))
    await store.close()
    print(allowed, refused, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("rate", [15, 60, 1000])  # with none, some and many permits in advance
def test_several_processes_together_never_exceed_the_limit(valkey: ValkeyServer, rate: int) -> None:
    seconds = 2.0
    command = [sys.executable, "-c", WORKER, valkey.url, f"{rate}/second", str(seconds)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    with valkey.client() as client:
        started = server_time(client)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        counts = [tuple(map(int, worker.communicate()[0].split())) for worker in workers]
        elapsed = server_time(client) - started
    assert all(worker.returncode == 0 for worker in workers)
    allowed, refused = (sum(column) for column in zip(*counts, strict=True))
    assert refused > allowed / 10, "the limit was hardly reached: nothing was shown"
    assert allowed <= rate + elapsed * rate / MICROSECONDS
    assert allowed >= 0.9 * (rate + seconds * rate)


def server_time(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * MICROSECONDS + int(microseconds)


async def timed(limiter: RedisLimiter, wanted: Limit) -> Decision:
    """Take, within a very generous reading of 100 ms."""
    started = time.perf_counter()
    decision = await limiter.take(Limits(wanted))
    assert time.perf_counter() - started < 1  # on a busy machine; a client that waits for its socket takes longer
    return decision


async def back_on_redis(limiter: RedisLimiter, wanted: Limit) -> None:
    async with asyncio.timeout(5):
        while (await limiter.take(Limits(wanted))).store != "redis":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_redis_each_process_goes_on_with_its_share(valkey_factory: ValkeyFactory, fault: str) -> None:
    server = valkey_factory()
    async with limiter_on(server.url, processes=4, deadline=DEADLINE) as (limiter, store, metrics):
        wanted = limit("100/hour")
        assert (await limiter.take(Limits(wanted))).store == "redis"

        if fault == "killed":
            server.kill()
        else:
            server.pause()
        decisions = [await timed(limiter, wanted) for _ in range(40)]
        assert {decision.store for decision in decisions} == {"local"}
        assert [decision.allowed for decision in decisions] == [True] * 25 + [False] * 15
        assert counted(metrics, "client", "allowed", "local") == 25
        assert counted(metrics, "client", "refused", "local") == 15

        if fault == "killed":
            server.restart()
        else:
            server.resume()
        await back_on_redis(limiter, limit("1000/second", "other"))
        assert store.up
        decision = await limiter.take(Limits(wanted))
        assert (decision.store, decision.allowed) == ("redis", True)


async def test_a_flood_on_a_frozen_redis_is_decided_within_the_deadline(valkey_factory: ValkeyFactory) -> None:
    server = valkey_factory()
    async with limiter_on(server.url, deadline=DEADLINE) as (limiter, _, _metrics):
        server.pause()
        wanted = limit("50/hour")
        decisions = await asyncio.gather(*(timed(limiter, wanted) for _ in range(200)))
        assert sum(decision.allowed for decision in decisions) == 50
        server.resume()
