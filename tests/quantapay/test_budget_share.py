"""What one process may take of the budget by itself."""

import copy
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantapay.budget.share import DEPTHS, Grant, Share, limits
from gateway.quantapay.urgency import Urgency

SPAN = 61.0
URGENT, READ, BACKGROUND = (DEPTHS[urgency] for urgency in Urgency)


def take(share: Share, depth: int, amount: int, now: float, most: int = 1000) -> int:
    """Take until refused; return how many were granted."""
    for count in range(most):
        if share.wait(depth, amount, now) > 0:
            return count
        share.add(Grant(f"id:{count}", depth, now))
    return most


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(90, (90, 72, 18)), (45, (45, 36, 9)), (6, (6, 4, 1)), (5, (5, 4, 1)), (2, (2, 1, 1)), (1, (1, 1, 1))],
)
def test_reads_get_four_fifths_and_background_work_a_fifth_but_each_at_least_one(
    amount: int, expected: Sequence[int]
) -> None:
    assert limits(amount) == expected


@pytest.mark.parametrize(
    ("depth", "processes", "granted"),
    [
        (URGENT, 4, 22),
        (READ, 4, 17),
        (BACKGROUND, 4, 4),
        (URGENT, 1, 90),
        (URGENT, 0, 90),
        (URGENT, 200, 1),
        (BACKGROUND, 200, 1),
    ],
)
def test_a_process_takes_its_share_and_at_least_one(depth: int, processes: int, granted: int) -> None:
    share = Share(SPAN, lambda: processes)
    assert take(share, depth, 90, 0.0) == granted
    assert share.wait(depth, 90, 1.0) == SPAN - 1
    assert take(share, depth, 90, SPAN) == granted


def test_what_was_left_of_the_whole_is_shared_until_a_window_has_passed() -> None:
    share = Share(SPAN, lambda: 4)
    share.learn((30, 12, 3), 0.0)
    assert take(share, BACKGROUND, 90, 10.0) == 0
    assert take(share, READ, 90, 10.0) == 3
    assert take(share, URGENT, 90, 10.0) == 4
    assert share.wait(URGENT, 90, 10.0) == SPAN - 10
    assert share.left(90, 10.0) == 0
    assert take(share, URGENT, 90, SPAN) == 22 - 7


def test_what_it_took_before_it_lost_sight_counts_too() -> None:
    share = Share(SPAN, lambda: 2)
    for number in range(40):
        share.add(Grant(str(number), READ, 0.0))
    share.learn((50, 32, 18), 0.0)
    assert share.left(90, 1.0) == 5
    assert take(share, READ, 90, 1.0) == 0
    assert take(share, URGENT, 90, 1.0) == 5


def test_while_the_whole_is_unknown_the_number_of_processes_only_grows() -> None:
    processes = 4
    share = Share(SPAN, lambda: processes)
    share.learn((90, 72, 18), 0.0)
    processes = 1
    assert share.processes == 4
    processes = 6
    assert share.processes == 6
    processes = 2
    share.learn((90, 72, 18), 0.0)
    assert share.processes == 2


def test_calls_being_asked_for_count_only_where_that_is_wanted() -> None:
    share = Share(SPAN, lambda: 1)
    with share.asking(READ), share.asking(URGENT):
        assert share.wait(URGENT, 2, 0.0, and_asked=True) == SPAN
        assert share.wait(URGENT, 2, 0.0) == 0
        assert share.wait(URGENT, 3, 0.0, and_asked=True) == 0
    assert share.wait(URGENT, 2, 0.0, and_asked=True) == 0


def test_the_newest_are_reported_first() -> None:
    share = Share(SPAN, lambda: 1)
    for number in range(5):
        share.add(Grant(str(number), URGENT, float(number)))
    assert [grant.id for grant in share.newest(3)] == ["4", "3", "2"]


@given(
    amount=st.one_of(st.integers(1, 12), st.integers(1, 100)),
    processes=st.integers(1, 4),
    steps=st.lists(st.tuples(st.floats(0, 70), st.sampled_from(list(Urgency))), max_size=60),
)
def test_no_window_holds_more_than_the_share_and_a_wait_ends_when_it_says(
    amount: int, processes: int, steps: list[tuple[float, Urgency]]
) -> None:
    share, now = Share(SPAN, lambda: processes), 1000.0
    granted: list[tuple[float, int]] = []
    caps = limits(max(1, amount // processes))
    for step, urgency in steps:
        now += step
        depth = DEPTHS[urgency]
        wait = share.wait(depth, amount, now)
        assert 0 <= wait <= SPAN + 1e-6
        if wait > 0:
            later = copy.deepcopy(share)  # asked about a later time, it forgets what still counts now
            assert later.wait(depth, amount, now + wait - 1e-6) > 0
            assert later.wait(depth, amount, now + wait + 1e-6) == 0
            continue
        share.add(Grant(str(len(granted)), depth, now))
        granted.append((now, depth))
        recent = [at_depth for at, at_depth in granted if at > now - 60]
        for log, cap in enumerate(caps):
            assert sum(at_depth > log for at_depth in recent) <= cap
