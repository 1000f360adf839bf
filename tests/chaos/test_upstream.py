"""A broken way to QuantaPay: what callers get, how soon, and that all is well again by itself (interface §7)."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.plugins.chaos_answers import problem_of, verdict
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.gateway import Outside, example_config, running
from tests.plugins.processes import until

TIMEOUT = 0.7
"""QUANTAPAY_TIMEOUT in seconds."""
SLACK = 1.0
"""What a request may take beyond all promises on a machine that does much else at the same time."""
IN_HEADERS, IN_BODY = 20, 130
"""Bytes of an answer of the simulator: its headers are about 117, its body is longer than the difference."""

NOT_REACHED = (503, "upstream-unavailable", "not_sent")
LOST = (502, "upstream-invalid-response", "unknown")
LATE = (504, "upstream-timeout", "unknown")


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, and what a caller may get whose call must not happen twice."""

    name: str
    break_it: Callable[[ChaosProxy], None]
    verdicts: tuple[tuple[int, str, str], ...]


CASES = [
    Case("too slow", lambda proxy: proxy.latency(60), (LATE,)),
    # Whether the RST comes before or after the request is on its way is a matter of luck.
    Case("reset at once", ChaosProxy.reset, (NOT_REACHED, LOST)),
    Case("reset before the answer", lambda proxy: proxy.reset(after_bytes=0), (LOST,)),
    Case("reset in the headers", lambda proxy: proxy.reset(after_bytes=IN_HEADERS), (LOST,)),
    Case("reset in the body", lambda proxy: proxy.reset(after_bytes=IN_BODY), (LOST,)),
    Case("closed before the answer", lambda proxy: proxy.cut(after_bytes=0), (LOST,)),
    Case("cut off in the headers", lambda proxy: proxy.cut(after_bytes=IN_HEADERS), (LOST,)),
    Case("cut off in the body", lambda proxy: proxy.cut(after_bytes=IN_BODY), (LOST,)),
    Case("half open", ChaosProxy.half_open, (LATE,)),
    Case("byte by byte", lambda proxy: proxy.dribble(bytes_per_second=30), (LATE,)),
    Case("refused", ChaosProxy.refuse, (NOT_REACHED,)),
    Case("frozen", ChaosProxy.freeze, (LATE,)),
]


def create(http: httpx.Client) -> httpx.Response:
    order = {"price": "49.99", "currency": "usd", "order_id": f"A-{time.monotonic_ns()}"}
    return http.post("/checkout-sessions", json=order)


def call_function(http: httpx.Client) -> httpx.Response:
    body = {"amount": "0.5", "cryptocurrency_code": "btc", "currency_code": "usd"}
    return http.post("/functions/get-fiat-value", json=body)


def read(http: httpx.Client) -> httpx.Response:
    return http.get("/balances")


REQUESTS = (create, call_function, read)


def way_through(proxy: ChaosProxy, **overrides: object) -> dict[str, object]:
    """Return the settings of a gateway whose QuantaPay is behind `proxy`."""
    return {"quantapay_url": f"{proxy.url('http')}/api.php", "quantapay_timeout": TIMEOUT, **overrides}


@pytest.fixture(scope="module")
def _module_gateway(settings_of, _module_upstream, log_lines):
    with running(settings_of(**way_through(_module_upstream))) as outside:
        yield outside


@pytest.fixture
def gateway(_module_gateway, chaos_upstream, valkey):
    """A gateway with its QuantaPay behind the chaos proxy; all is well when a test begins."""
    until(lambda: well(_module_gateway), "all is well")
    return _module_gateway


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_answered_as_documented_and_gone_when_it_is_over(case, gateway, chaos_upstream, simulator, rounds):
    for _ in rounds():
        assert well(gateway)  # twice as often as not, so that no breaker opens
        simulator.reset()
        case.break_it(chaos_upstream)
        created, called, found = all_at_once(gateway)
        assert verdict(created) in case.verdicts
        assert verdict(called) in case.verdicts
        assert verdict(found) in [(status, code, None) for status, code, _ in case.verdicts]
        sent = [call["function"] for call in simulator.calls()]
        # What may have been sent is not sent again.
        assert sent.count("create-checkout-session") <= 1
        assert sent.count("get-fiat-value") <= 1
        chaos_upstream.heal()
        until(lambda: well(gateway), "all is well again")


@pytest.mark.parametrize(
    "break_it",
    [lambda proxy: proxy.latency(TIMEOUT / 5), lambda proxy: proxy.dribble(bytes_per_second=2000)],
    ids=["late", "in pieces"],
)
def test_slow_within_the_deadline_is_good_enough(break_it, gateway, chaos_upstream):
    break_it(chaos_upstream)
    assert well(gateway)


def test_a_cached_read_goes_on_while_quantapay_is_away(settings_of, chaos_upstream, valkey, log_lines):
    config = {**example_config(), "cache": {"balances": 1}}
    with running(settings_of(config, **way_through(chaos_upstream))) as gateway:
        good = read(gateway.http)
        assert good.status_code == 200
        chaos_upstream.cut(after_bytes=IN_BODY)

        def stale() -> bool:
            answer = read(gateway.http)
            assert (answer.status_code, answer.json()) == (200, good.json())
            return "stale" in answer.headers["cache-status"]

        until(stale, "the kept answer is no longer fresh, and served all the same")


def test_one_slow_function_does_not_hold_up_another(settings_of, chaos_upstream, simulator, valkey, log_lines):
    settings = settings_of(**way_through(chaos_upstream, quantapay_timeout=2 * TIMEOUT))
    with running(settings) as gateway, ThreadPoolExecutor(20) as pool:
        simulator.scenario("hang", function="get-transactions")
        hanging = [pool.submit(gateway.http.get, f"/transactions?page={number}") for number in range(20)]
        until(lambda: len(simulator.calls()) >= 5, "calls are hanging")
        assert gateway.http.get("/credit-balance").status_code == 200
        assert not any(request.done() for request in hanging)
        for request in hanging:
            problem = problem_of(request.result())
            assert problem is not None
            assert problem["code"] in ("upstream-timeout", "upstream-unavailable", "overloaded")


def test_faults_leave_nothing_behind(gateway, chaos_upstream):
    tasks = tasks_of(gateway)
    for break_it in (ChaosProxy.reset, ChaosProxy.half_open, lambda proxy: proxy.cut(after_bytes=IN_BODY)):
        break_it(chaos_upstream)
        all_at_once(gateway)
        chaos_upstream.heal()
        until(lambda: well(gateway), "all is well again")
    until(lambda: tasks_of(gateway) <= tasks, "every task has ended")
    # One kept connection for each call that was ever under way at once, and no more.
    until(lambda: chaos_upstream.counters.open <= len(REQUESTS), "broken connections are closed")


def all_at_once(gateway: Outside) -> list[httpx.Response]:
    """Send one of each request, and hold every answer to the deadline."""
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        answers = list(pool.map(lambda request: timed(request, gateway.http), REQUESTS))
    assert max(seconds for _, seconds in answers) <= TIMEOUT * 1.1 + SLACK
    return [answer for answer, _ in answers]


def timed(request: Callable[[httpx.Client], httpx.Response], http: httpx.Client) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    return request(http), time.monotonic() - started


def well(gateway: Outside) -> bool:
    return [request(gateway.http).status_code for request in REQUESTS] == [201, 200, 200]


def tasks_of(gateway: Outside) -> int:
    return len(asyncio.all_tasks(gateway.inside.store._watch.get_loop()))
