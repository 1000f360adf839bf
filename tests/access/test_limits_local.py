"""The limiter that needs no Redis, against exact GCRA."""

import asyncio
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.limits import Limit, Limits, client_limit, ip_limit
from gateway.access.limits_local import LocalLimiter
from gateway.clock import SystemClock
from gateway.quota import Quota
from tests.plugins.decisions import remaining, resets_after


class HeldClock(SystemClock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


def limit(text: str, name: str = "orders") -> Limit:
    return client_limit(name, Quota.parse(text))


def address_limit(text: str, subject: str = "192.0.2.1") -> Limit:
    return ip_limit("orders", subject, Quota.parse(text))


async def burst(limiter: LocalLimiter, wanted: Limit, most: int = 1000) -> int:
    """Take until refused; return how many were let through."""
    for count in range(most):
        if not (await limiter.take(Limits(wanted))).allowed:
            return count
    return most


async def test_n_at_once_then_one_each_interval() -> None:
    clock = HeldClock()
    limiter, wanted = LocalLimiter(clock, lambda: 1), limit("60/minute")
    assert await burst(limiter, wanted) == 60
    refusal = await limiter.take(Limits(wanted))
    assert (refusal.retry_after, refusal.refused_by, refusal.store) == (1.0, wanted, "local")
    assert (refusal.limits.each, remaining(refusal), resets_after(refusal)) == ((wanted,), [0], [60.0])
    clock.now += 1
    assert await burst(limiter, wanted) == 1
    clock.now += 600
    assert await burst(limiter, wanted) == 60


@pytest.mark.parametrize(
    ("quota", "processes", "at_once", "per_window"),
    [("600/minute", 4, 150, 150), ("7/minute", 1, 7, 7), ("60/minute", 1, 60, 60), ("60/minute", 0, 60, 60)],
)
async def test_each_process_takes_its_share(quota: str, processes: int, at_once: int, per_window: int) -> None:
    clock, wanted = HeldClock(), limit(quota)
    limiter = LocalLimiter(clock, lambda: processes)
    assert await burst(limiter, wanted) == at_once
    clock.now += 60
    assert await burst(limiter, wanted) == per_window


@pytest.mark.parametrize(("quota", "processes"), [("7/minute", 4), ("3/minute", 8), ("1/hour", 5)])
async def test_shares_that_are_not_whole_do_not_drift(quota: str, processes: int) -> None:
    clock, wanted = HeldClock(), limit(quota)
    limiter = LocalLimiter(clock, lambda: processes)
    allowed, windows = await burst(limiter, wanted), 40
    assert allowed == max(1, wanted.quota.amount // processes)
    for _ in range(windows * 100):
        clock.now += wanted.quota.window / 100
        allowed += await burst(limiter, wanted)
    rate = Fraction(wanted.quota.amount, processes)
    assert rate * windows - 1 <= allowed <= rate * windows + max(1, rate)


async def test_a_changed_number_of_processes_counts_from_the_next_request() -> None:
    clock, wanted, processes = HeldClock(), limit("60/minute"), 1
    limiter = LocalLimiter(clock, lambda: processes)
    assert await burst(limiter, wanted) == 60
    processes = 4
    clock.now += 60
    assert await burst(limiter, wanted) == 15
    processes = 1
    clock.now += 60
    assert await burst(limiter, wanted) == 60


async def test_all_limits_are_taken_or_none() -> None:
    clock = HeldClock()
    limiter = LocalLimiter(clock, lambda: 1)
    wide, narrow, other = limit("100/minute"), address_limit("2/minute"), address_limit("5/minute", "192.0.2.2")
    for _ in range(2):
        assert (await limiter.take(Limits(narrow, wide, other))).allowed
    for _ in range(50):
        refusal = await limiter.take(Limits(wide, narrow, other))
        assert not refusal.allowed
        assert refusal.refused_by == narrow
        assert remaining(refusal) == [98, 0, 3]
    assert (await limiter.take(Limits(wide, other))).allowed


async def test_the_longest_of_several_waits_is_told() -> None:
    limiter = LocalLimiter(HeldClock(), lambda: 1)
    second, hour = address_limit("1/second"), limit("1/hour")
    assert (await limiter.take(Limits(second, hour))).allowed
    refusal = await limiter.take(Limits(second, hour))
    assert (refusal.refused_by, refusal.retry_after) == (second, 3600.0)


async def test_a_changed_quota_keeps_what_was_used() -> None:
    clock = HeldClock()
    limiter = LocalLimiter(clock, lambda: 1)
    assert await burst(limiter, limit("10/minute")) == 10
    assert await burst(limiter, limit("20/minute")) == 0
    clock.now += 30
    assert await burst(limiter, limit("20/minute")) == 10
    assert await burst(limiter, limit("10/second")) == 0
    clock.now += 1
    assert await burst(limiter, limit("10/second")) == 10


async def test_memory_is_bounded_and_the_longest_unused_key_goes_first() -> None:
    limiter = LocalLimiter(HeldClock(), lambda: 1, most_keys=2)
    one, two, three = (limit("2/minute", name) for name in ("one", "two", "three"))
    for wanted in (one, two, one, three):
        assert (await limiter.take(Limits(wanted))).allowed
    assert await burst(limiter, one) == 0
    assert await burst(limiter, two) == 2


async def test_nothing_to_take_is_allowed() -> None:
    assert (await LocalLimiter(HeldClock(), lambda: 1).take(Limits())).allowed


@given(
    quota=st.builds(Quota, st.integers(1, 999_999_999), st.sampled_from([1, 60, 3600])),
    processes=st.integers(1, 50),
    steps=st.lists(st.integers(0, 5_000_000), max_size=60),
)
def test_a_share_equals_exact_gcra(quota: Quota, processes: int, steps: list[int]) -> None:
    interval = Fraction(quota.window * processes, quota.amount)
    span, tat = max(Fraction(quota.window), interval), Fraction(0)
    clock = HeldClock()
    limiter, wanted = LocalLimiter(clock, lambda: processes), client_limit("orders", quota)

    async def compare() -> None:
        nonlocal tat
        for step in steps:
            clock.now = round(clock.now * 1_000_000 + step) / 1_000_000
            now = Fraction(int(clock.now * 1_000_000), 1_000_000)
            expected = max(tat, now) + interval <= now + span
            if expected:
                tat = max(tat, now) + interval
            decision = await limiter.take(Limits(wanted))
            assert decision.allowed == expected
            assert remaining(decision)[0] == (now + span - max(tat, now)) // interval

    asyncio.run(compare())


def test_a_decision_is_quick() -> None:
    limiter, wanted = LocalLimiter(SystemClock(), lambda: 4), limit("600/minute")

    async def many() -> float:
        started = time.perf_counter()
        for _ in range(1000):
            await limiter.take(Limits(wanted))
        return time.perf_counter() - started

    assert asyncio.run(many()) < 1
