"""Which failures are tried again, when, and what that may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import SystemClock
from gateway.errors import (
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay.guard import BreakerOpen, Retries, is_worth_retrying


class Dice(SystemClock):
    def __init__(self, chance: float = 0.5) -> None:
        self.chance = chance

    def random(self) -> float:
        return self.chance


@pytest.mark.parametrize(
    ("error", "read", "create"),
    [
        (UpstreamUnavailable, True, True),
        (UpstreamInvalidResponse, True, False),
        (UpstreamTimeout, False, False),
        (BreakerOpen, False, False),
        (UpstreamBudgetExhausted, False, False),
        (Overloaded, False, False),
        (UpstreamThrottled, False, False),
        (UpstreamRejected, False, False),
        (UpstreamCredentialsRejected, False, False),
    ],
)
def test_only_what_was_not_sent_or_may_be_repeated_is_tried_again(error, read, create):
    assert is_worth_retrying(error(), repeatable=True) is read
    assert is_worth_retrying(error(), repeatable=False) is create


@pytest.mark.parametrize(("retry", "longest"), [(1, 0.1), (2, 0.2)])
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_the_pause_is_any_part_of_a_time_that_doubles(retry, longest, chance):
    assert Retries(Dice(chance)).pause_before(retry, left=10) == pytest.approx(longest * chance)


def test_a_call_is_retried_twice_and_not_a_third_time():
    assert Retries(Dice()).pause_before(3, left=10) is None


def test_no_retry_is_begun_that_the_deadline_would_cut_off_and_it_costs_nothing():
    retries = Retries(Dice())
    for left in (0.049, 0.05, 0, -1) * 10:
        assert retries.pause_before(1, left=left) is None
    assert Retries(Dice(0.0)).pause_before(1, left=0) is None
    assert retries.pause_before(1, left=0.051) == 0.05


def test_in_an_outage_a_few_retries_and_then_one_for_each_five_calls():
    retries = Retries(Dice())
    made = 0
    for _ in range(100):
        retries.pay_in()
        made += retries.pause_before(1, left=10) is not None
    assert made == 23


def test_what_is_saved_in_good_times_is_bounded():
    retries = Retries(Dice())
    for _ in range(10_000):
        retries.pay_in()
    assert sum(retries.pause_before(1, left=10) is not None for _ in range(100)) == 10


@given(steps=st.lists(st.sampled_from(["call", "retry", "second retry"]), max_size=300))
def test_retries_never_exceed_a_fifth_of_the_calls_and_three(steps):
    retries = Retries(Dice())
    calls = made = 0
    for step in steps:
        if step == "call":
            retries.pay_in()
            calls += 1
        elif retries.pause_before(1 if step == "retry" else 2, left=10) is not None:
            made += 1
        assert made <= calls / 5 + 3
