"""The guard: which results open which breaker, who else is refused, and what operators see of it."""

import asyncio

import pytest
from structlog.testing import capture_logs

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
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.guard import BreakerOpen, Guard
from gateway.telemetry.metrics import Metrics


class HeldClock(SystemClock):
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Watched:
    """A guard, and attempts through it that end as they are told."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.metrics = Metrics()
        self.guard = Guard(clock=self.clock, metrics=self.metrics)

    def attempt(self, function: str = "a", error: BaseException | None = None, *, reached: str = "sent") -> None:
        attempt = Attempt()
        with self.guard.watch(function, attempt):
            if reached != "nothing":
                attempt.started = self.clock.now
            if reached == "sent":
                attempt.note_sent()
            if error is not None:
                raise error

    def fail(self, error: BaseException, *, times: int = 10, function: str = "a", reached: str = "sent") -> None:
        for _ in range(times):
            with pytest.raises(type(error)):
                self.attempt(function, error, reached=reached)

    def refusal(self, function: str) -> BreakerOpen:
        with pytest.raises(BreakerOpen) as refused:
            self.attempt(function)
        return refused.value

    def shown(self, function: str) -> dict[str, float | None]:
        value = self.metrics.registry.get_sample_value
        return {
            state: value("quantapay_breaker_state", {"function": function, "state": state})
            for state in ("closed", "open", "half-open")
        }


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize("error", [UpstreamTimeout(), UpstreamInvalidResponse()])
def test_a_function_that_keeps_failing_is_left_alone_and_the_others_are_not(watched, error):
    watched.fail(error)
    refusal = watched.refusal("a")
    assert (refusal.code, refusal.retry_after, refusal.outcome) == ("upstream-unavailable", 5, "not_sent")
    watched.attempt("b")
    assert watched.guard.states == {"connect": "closed", "a": "open", "b": "closed"}


@pytest.mark.parametrize("error", [UpstreamUnavailable(), UpstreamTimeout()])
def test_failures_to_connect_are_shared_and_hold_every_function_but_one_probe(watched, error):
    watched.fail(error, times=5, function="a", reached="connecting")
    watched.fail(error, times=5, function="b", reached="connecting")
    assert watched.guard.states == {"connect": "open", "a": "closed", "b": "closed"}
    assert [watched.refusal(function).retry_after for function in "abc"] == [5, 5, 5]
    watched.clock.now += 5
    with watched.guard.watch("a", Attempt()):
        watched.refusal("b")
    watched.fail(error, times=1, function="b", reached="connecting")
    assert watched.refusal("a").retry_after == 5
    watched.clock.now += 5
    watched.attempt("b")
    watched.attempt("a")
    assert watched.guard.states["connect"] == "closed"


def test_a_probe_that_is_sent_opens_the_way_for_the_others_before_it_is_answered(watched):
    watched.fail(UpstreamUnavailable(), reached="connecting")
    watched.clock.now += 5
    hanging = Attempt(started=5.0)
    with watched.guard.watch("slow", hanging):
        watched.refusal("b")
        hanging.note_sent()
        watched.attempt("b")


@pytest.mark.parametrize("error", [UpstreamRejected(), UpstreamThrottled(), UpstreamCredentialsRejected()])
def test_a_refusal_is_an_answer_and_good_news(watched, error):
    watched.fail(error, times=10)
    watched.fail(UpstreamTimeout(), times=9)
    watched.attempt("a")
    assert watched.guard.states["a"] == "closed"
    watched.fail(UpstreamTimeout(), times=1)
    watched.fail(UpstreamTimeout(), times=1)
    assert watched.guard.states["a"] == "open"


@pytest.mark.parametrize(
    ("error", "reached"),
    [
        (UpstreamBudgetExhausted(), "nothing"),
        (Overloaded(), "nothing"),
        (UpstreamTimeout(), "nothing"),
        (asyncio.CancelledError(), "nothing"),
        (asyncio.CancelledError(), "connecting"),
        (asyncio.CancelledError(), "sent"),
        (KeyError(), "sent"),
    ],
)
def test_what_came_to_nothing_opens_nothing_and_frees_the_probes_place(watched, error, reached):
    watched.fail(error, times=20, reached=reached)
    assert watched.guard.states == {"connect": "closed", "a": "closed"}

    watched.fail(UpstreamTimeout())
    assert watched.guard.states["a"] == "open"
    watched.clock.now += 5
    watched.fail(error, times=3, reached=reached)
    watched.attempt("a")
    assert watched.guard.states["a"] == "closed"


def test_a_connection_that_fails_during_a_functions_probe_says_nothing_about_the_function(watched):
    watched.fail(UpstreamTimeout())
    watched.clock.now += 5
    watched.fail(UpstreamUnavailable(), times=3, reached="connecting")
    watched.attempt("a")
    assert watched.guard.states["a"] == "closed"


def test_operators_see_the_state_from_the_first_use_and_the_log_tells_of_outages_once(watched):
    assert watched.shown("connect") == {"closed": 1, "open": 0, "half-open": 0}
    assert watched.shown("a") == {"closed": None, "open": None, "half-open": None}
    with capture_logs() as lines:
        watched.attempt("a")
        assert watched.shown("a") == {"closed": 1, "open": 0, "half-open": 0}
        watched.fail(UpstreamTimeout(), times=9)
        assert watched.shown("a") == {"closed": 0, "open": 1, "half-open": 0}
        watched.clock.now += 5
        watched.fail(UpstreamTimeout(), times=1)
        assert watched.shown("a") == {"closed": 0, "open": 1, "half-open": 0}
        watched.clock.now += 5
        with watched.guard.watch("a", Attempt()):
            assert watched.shown("a") == {"closed": 0, "open": 0, "half-open": 1}
    assert watched.shown("a") == {"closed": 1, "open": 0, "half-open": 0}
    assert lines == [
        {"event": "breaker opened", "breaker": "a", "log_level": "warning"},
        {"event": "breaker closed", "breaker": "a", "log_level": "info"},
    ]


async def test_each_function_has_its_own_places(watched):
    async def hold(function, started):
        async with watched.guard.place(function):
            started.set()
            await asyncio.Event().wait()

    holders = []
    for _ in range(64):
        started = asyncio.Event()
        holders.append(asyncio.create_task(hold("slow", started)))
        await started.wait()
    async with asyncio.timeout(0.5), watched.guard.place("quick"):
        pass
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    async with asyncio.timeout(0.5), watched.guard.place("slow"):
        pass
