"""Permits in advance: who gets any, how many, and for how long."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import permits
from gateway.access.limits import Limits, client_limit, ip_limit
from gateway.access.permits import GOOD_FOR, Permits
from gateway.clock import SystemClock
from gateway.quota import Quota

BUSY = Quota(100_000, 1)
BUSY_LIMITS = Limits(client_limit("orders", BUSY))


@dataclass
class SetClock(SystemClock):
    """Stands until it is set."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def ask(kept: Permits, limits: Limits = BUSY_LIMITS, *, is_given: bool = True) -> int:
    """Do what the limiter does when it asks Redis; return how many it asked for in advance."""
    grant = kept.ask(limits)
    grant.taken, grant.backlogs = grant.in_advance * is_given, [0] * len(limits.each)
    kept.keep(grant)
    return grant.in_advance


def take_all(kept: Permits, limits: Limits = BUSY_LIMITS) -> int:
    taken = 0
    while kept.take(limits) is not None:
        taken += 1
    return taken


def test_twice_as_many_are_taken_each_time_while_all_are_used(clock: SetClock) -> None:
    kept = Permits(clock)
    sizes = []
    for _ in range(6):
        sizes.append(ask(kept))
        assert take_all(kept) == sizes[-1]
        clock.now += GOOD_FOR / 2
    assert sizes == [0, 1, 2, 4, 8, 16]


def test_what_was_not_used_in_time_is_worth_nothing_and_the_next_are_as_many_as_were(clock: SetClock) -> None:
    kept = Permits(clock)
    for _ in range(5):
        ask(kept)
        take_all(kept)
    assert ask(kept) == 16
    for _ in range(3):
        assert kept.take(BUSY_LIMITS) is not None
    clock.now += GOOD_FOR
    assert kept.take(BUSY_LIMITS) is None
    assert ask(kept) == 3
    clock.now += GOOD_FOR
    assert ask(kept) == 0


def test_who_comes_now_and_then_takes_none_in_advance(clock: SetClock) -> None:
    kept = Permits(clock)
    for _ in range(10):
        assert ask(kept) == 0
        clock.now += 1.01 * GOOD_FOR


@pytest.mark.parametrize(
    ("quota", "most"),
    [("19/second", 0), ("600/minute", 0), ("20/second", 1), ("12000/minute", 10), ("1000/second", 50)],
)
def test_no_more_than_come_back_while_they_are_good(clock: SetClock, quota: str, most: int) -> None:
    kept = Permits(clock)
    limits = Limits(client_limit("orders", Quota.parse(quota)))
    sizes = []
    for _ in range(8):
        sizes.append(ask(kept, limits))
        assert take_all(kept, limits) == sizes[-1]
    assert max(sizes) == most


def test_the_slowest_of_several_limits_counts(clock: SetClock) -> None:
    kept = Permits(clock)
    limits = Limits(ip_limit("shop", "192.0.2.1", Quota(60, 60)), client_limit("shop", BUSY))
    for _ in range(5):
        assert ask(kept, limits) == 0
        assert kept.take(limits) is None


def test_where_the_script_gave_none_one_is_asked_for_until_it_does(clock: SetClock) -> None:
    kept = Permits(clock)
    sizes = []
    for is_given in [True, True, True, False, False, True, True]:
        sizes.append(ask(kept, is_given=is_given))
        take_all(kept)
    assert sizes == [0, 1, 2, 4, 1, 1, 2]


def test_permits_are_for_these_limits_only(clock: SetClock) -> None:
    kept = Permits(clock)
    for _ in range(4):
        ask(kept)
    reloaded = Limits(client_limit("orders", Quota(200_000, 1)))
    assert kept.take(reloaded) is None
    assert kept.take(BUSY_LIMITS) is not None


def test_callers_are_kept_within_bounds_and_who_asked_longest_ago_goes_first(
    clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "MOST_CALLERS", 3)
    kept = Permits(clock)
    callers = [Limits(client_limit(f"c{number}", BUSY)) for number in range(4)]
    for limits in callers[:3] * 2:
        ask(kept, limits)
    ask(kept, callers[3])
    assert [kept.take(limits) is not None for limits in callers] == [False, True, True, False]


@given(st.lists(st.tuples(st.sampled_from(["ask", "take"]), st.integers(0, 60))))
def test_never_more_are_used_than_were_taken_in_time(steps: list[tuple[str, int]]) -> None:
    clock = SetClock()
    kept = Permits(clock)
    good: list[float] = []
    for kind, milliseconds in steps:
        clock.now += milliseconds / 1000
        if kind == "ask":
            # What the last ones left is forgotten, so that it never adds up.
            good = [clock.now] * ask(kept)
            assert len(good) <= BUSY.amount * GOOD_FOR
        else:
            usable = [taken_at for taken_at in good if clock.now - taken_at < GOOD_FOR]
            assert (kept.take(BUSY_LIMITS) is not None) == bool(usable)
            good = usable[1:]
