"""The breaker against an independent model that keeps every result and counts anew each time."""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.clock import SystemClock
from gateway.quantapay.guard.breaker import Breaker, State


class HeldClock(SystemClock):
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Watched:
    """A breaker, its clock, and every change it told of."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.changes: list[tuple[State, State]] = []
        self.breaker = Breaker(self.clock, on_change=lambda before, after: self.changes.append((before, after)))

    def result(self, *results: bool) -> None:
        for good in results:
            self.breaker.settle(self.breaker.enter(), good=good)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def opened(watched: Watched) -> Watched:
    watched.result(*[False] * 10)
    return watched


def test_it_opens_at_the_tenth_result_of_which_half_failed(watched):
    watched.result(*[True] * 5, *[False] * 4)
    assert (watched.breaker.state, watched.breaker.wait()) == (State.CLOSED, 0)
    watched.result(False)
    assert (watched.breaker.state, watched.breaker.wait()) == (State.OPEN, 5)
    assert watched.changes == [(State.CLOSED, State.OPEN)]


def test_a_few_calls_never_open_it_nor_does_less_than_half(watched):
    watched.result(*[False] * 9)
    assert watched.breaker.state is State.CLOSED
    watched.result(*[True] * 11, *[False, True] * 50)
    assert watched.breaker.state is State.CLOSED


def test_what_came_to_nothing_does_not_count(watched):
    for _ in range(100):
        watched.breaker.settle(watched.breaker.enter(), good=None)
    watched.result(*[False] * 9)
    assert watched.breaker.state is State.CLOSED


def test_results_older_than_thirty_seconds_are_forgotten_and_younger_ones_are_not(watched):
    watched.result(*[False] * 9)
    watched.clock.now += 30
    watched.result(*[False] * 9)
    assert watched.breaker.state is State.CLOSED
    watched.clock.now += 29
    watched.result(False)
    assert watched.breaker.state is State.OPEN


def test_after_the_pause_one_probe_goes_through_and_its_good_result_closes(opened):
    opened.clock.now += 4.5
    assert opened.breaker.wait() == 1
    opened.clock.now += 0.5
    assert opened.breaker.wait() == 0
    probe = opened.breaker.enter()
    assert (opened.breaker.state, opened.breaker.wait()) == (State.HALF_OPEN, 1)
    opened.breaker.settle(probe, good=True)
    assert (opened.breaker.state, opened.breaker.wait()) == (State.CLOSED, 0)
    opened.result(*[False] * 9)
    assert opened.breaker.state is State.CLOSED  # what was before is forgotten


def test_a_bad_probe_opens_it_for_another_pause(opened):
    opened.clock.now += 7
    opened.result(False)
    assert (opened.breaker.state, opened.breaker.wait()) == (State.OPEN, 5)


def test_a_probe_that_came_to_nothing_frees_its_place_at_once(opened):
    opened.clock.now += 5
    opened.breaker.settle(opened.breaker.enter(), good=None)
    assert (opened.breaker.state, opened.breaker.wait()) == (State.OPEN, 0)


def test_what_was_sent_before_it_opened_says_nothing_about_the_probe_nor_about_the_time_after(watched):
    early = [watched.breaker.enter() for _ in range(22)]
    for period in early[:10]:
        watched.breaker.settle(period, good=False)
    watched.clock.now += 5
    probe = watched.breaker.enter()
    watched.breaker.settle(early[10], good=True)
    watched.breaker.settle(early[11], good=None)
    assert watched.breaker.state is State.HALF_OPEN
    watched.breaker.settle(probe, good=True)
    for period in early[12:]:
        watched.breaker.settle(period, good=False)
    assert watched.breaker.state is State.CLOSED


def test_its_memory_does_not_grow_with_the_calls(watched):
    for _ in range(500):
        watched.clock.now += 0.25
        watched.result(True, True, False)
    assert len(watched.breaker._results._seconds) <= 30


class AgainstAModel(RuleBasedStateMachine):
    """Any mixture of calls, results and time. Quarters of seconds are exact in binary."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.real = Watched()
        self.results: list[tuple[float, bool]] = []
        self.probe_at: float | None = None
        self.probe: object = None
        self.lives = 0
        """How often it opened: a call counts in the life it began in."""

    @property
    def now(self) -> float:
        return self.real.clock.now

    @rule(quarters=st.integers(1, 24) | st.sampled_from([116, 119, 120, 121, 124]))
    def time_passes(self, quarters):
        self.real.clock.now += quarters / 4

    @rule(target=calls)
    def a_call_asks(self):
        wait = self.real.breaker.wait()
        call = None
        if self.probe_at is None:
            assert wait == 0
            call = ("call", self.lives)
        elif self.probe is None and self.now >= self.probe_at:
            assert wait == 0
            call = self.probe = ("probe", self.lives)
        elif self.probe is None:
            assert wait == math.ceil(self.probe_at - self.now)
        else:
            assert wait == 1
        return (call, self.real.breaker.enter()) if call else None

    @rule(call=consumes(calls), good=st.sampled_from([True, False, False, None]))
    def a_call_ends(self, call, good):
        if call is None:
            return
        (kind, life), period = call
        self.real.breaker.settle(period, good=good)
        if kind == "probe":
            self.probe = None
            if good:
                self.probe_at, self.results = None, []
                self.lives += 1
            elif good is False:
                self.probe_at = self.now + 5
        elif self.probe_at is None and life == self.lives and good is not None:
            self.results.append((self.now, good))
            recent = [good for at, good in self.results if math.floor(at) > math.floor(self.now) - 30]
            if len(recent) >= 10 and recent.count(False) * 2 >= len(recent):
                self.probe_at = self.now + 5

    @rule(good=st.booleans(), times=st.integers(2, 9))
    def many_calls_end_alike(self, good, times):
        for _ in range(times):
            self.a_call_ends(self.a_call_asks(), good)

    @invariant()
    def both_agree(self):
        expected = State.CLOSED if self.probe_at is None else State.HALF_OPEN if self.probe else State.OPEN
        assert self.real.breaker.state is expected

    @invariant()
    def every_change_is_told_once(self):
        states = [State.CLOSED, *(after for _, after in self.real.changes)]
        assert [before for before, _ in self.real.changes] == states[:-1]
        assert states[-1] is self.real.breaker.state


test_it_agrees_with_the_model = AgainstAModel.TestCase
