"""A broken way to Redis: reads go on within their limits, creates wait for better times (interface §7)."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest

from gateway.store.client import DEADLINE
from tests.plugins.chaos_answers import verdict
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.gateway import READER_KEY, running
from tests.plugins.processes import until

SLACK = 1.0
"""What a request may take beyond all promises on a machine that does much else at the same time."""
ONE_WAIT = 0.1
"""Seconds that a request may wait for Redis, in all."""
READER_LIMIT = 3
"""Requests that the reader may make in an hour."""

NOT_STORED = (503, "storage-unavailable", "not_sent")


@dataclass(frozen=True, slots=True)
class Case:
    """A fault of the way to Redis."""

    name: str
    break_it: Callable[[ChaosProxy], None]


CASES = [
    Case("too slow", lambda proxy: proxy.latency(5 * ONE_WAIT)),
    Case("reset at once", ChaosProxy.reset),
    Case("reset before the reply", lambda proxy: proxy.reset(after_bytes=0)),
    Case("reset in a reply", lambda proxy: proxy.reset(after_bytes=1)),
    Case("closed before the reply", lambda proxy: proxy.cut(after_bytes=0)),
    Case("cut off in a reply", lambda proxy: proxy.cut(after_bytes=1)),
    Case("half open", ChaosProxy.half_open),
    Case("byte by byte", lambda proxy: proxy.dribble(bytes_per_second=1)),
    Case("refused", ChaosProxy.refuse),
    Case("frozen", ChaosProxy.freeze),
]


def create(http: httpx.Client, **headers: str) -> httpx.Response:
    order = {"price": "49.99", "currency": "usd", "order_id": f"A-{time.monotonic_ns()}"}
    return http.post("/checkout-sessions", json=order, headers=headers)


@pytest.fixture(scope="module")
def _module_gateway(settings_of, _module_redis, log_lines):
    with running(settings_of(redis_url=_module_redis.url("redis")), redis_deadline=DEADLINE) as outside:
        yield outside


@pytest.fixture
def gateway(_module_gateway, chaos_redis, simulator):
    """A gateway with its Redis behind the chaos proxy; all is well when a test begins."""
    until(lambda: create(_module_gateway.http).status_code == 201, "creates are possible")
    simulator.reset()
    return _module_gateway


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reads_go_on_creates_do_not_and_both_come_back(case, gateway, chaos_redis, simulator, rounds):
    for _ in rounds():
        simulator.reset()
        case.break_it(chaos_redis)
        for _ in range(3):
            started = time.monotonic()
            assert gateway.http.get("/balances").status_code == 200
            assert verdict(create(gateway.http)) == NOT_STORED
            assert verdict(create(gateway.http, **{"Idempotency-Key": f"K-{started}"})) == NOT_STORED
            assert time.monotonic() - started <= 3 * ONE_WAIT + SLACK
        assert {call["function"] for call in simulator.calls()} == {"get-balances"}
        until(lambda: gateway.metric("gateway_redis_up") == 0, "the outage is shown")
        chaos_redis.heal()
        until(lambda: create(gateway.http).status_code == 201, "creates are possible again")
        assert gateway.metric("gateway_redis_up") == 1


@pytest.mark.parametrize("case", [CASES[1], CASES[-1]], ids=lambda case: case.name)
def test_nothing_is_unlimited_meanwhile(case, settings_of, chaos_redis, simulator, log_lines):
    # A gateway of its own: what a client has left of its hour, a process remembers.
    with (
        running(settings_of(redis_url=chaos_redis.url("redis")), redis_deadline=DEADLINE) as gateway,
        gateway.client(READER_KEY) as reader,
    ):
        case.break_it(chaos_redis)
        statuses = [reader.get("/balances").status_code for _ in range(2 * READER_LIMIT)]
        allowed = statuses.index(429)
        assert 1 <= allowed <= READER_LIMIT  # the share of one process; the module's other gateway may count too
        assert statuses[allowed:] == [429] * (2 * READER_LIMIT - allowed)


def test_a_claim_that_a_frozen_redis_runs_late_does_nothing(gateway, chaos_redis, simulator):
    order = {"price": "49.99", "currency": "usd", "order_id": "A-1"}

    def ask() -> httpx.Response:
        return gateway.http.post("/checkout-sessions", json=order, headers={"Idempotency-Key": "K-1"})

    def answered() -> bool:
        answer = ask()
        assert verdict(answer) in (NOT_STORED, (201, None, None))  # and not "in progress"
        return answer.status_code == 201

    chaos_redis.freeze()
    assert verdict(ask()) == NOT_STORED
    until(lambda: gateway.metric("gateway_redis_up") == 0, "the outage is shown")
    chaos_redis.heal()
    until(answered, "the key is answered")
    first, second = ask(), ask()
    assert first.headers["Idempotent-Replayed"] == "true"
    assert first.content == second.content
    assert len([call for call in simulator.calls() if call["function"] == "create-checkout-session"]) == 1
