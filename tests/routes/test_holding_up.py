"""What callers see when QuantaPay is scarce, slow or gone (interface §7), over real sockets."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.store.client import DEADLINE
from tests.plugins.gateway import ShiftedClock, running
from tests.plugins.processes import free_port

ORDER = {"price": "49.99", "currency": "usd"}


@pytest.fixture
def alone(settings_of, simulator, valkey_factory, log_lines):
    """Makes gateways that share nothing with those of other tests."""

    def make(**overrides):
        clock = overrides.pop("clock", None)
        settings = settings_of(**{"redis_url": valkey_factory().url, **overrides})
        return running(settings, clock=clock)

    return make


def test_reads_leave_a_fifth_of_the_budget_to_creates(alone, simulator):
    with alone(quantapay_budget="10/minute") as outside:
        reads = [outside.http.get("/balances") for _ in range(9)]
        assert [answer.status_code for answer in reads] == [200] * 8 + [503]
        refused = reads[-1]
        assert refused.json()["code"] == "upstream-budget-exhausted"
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert "outcome" not in refused.json()
        creates = [outside.http.post("/checkout-sessions", json=ORDER) for _ in range(3)]
        assert [answer.status_code for answer in creates] == [201, 201, 503]
        assert creates[-1].json()["code"] == "upstream-budget-exhausted"
        assert creates[-1].json()["outcome"] == "not_sent"
        assert outside.metric("quantapay_budget_limit") == 10
        assert outside.metric("quantapay_budget_remaining") == 0
        assert outside.ops("/status").json()["budget"] == {"limit": 10, "remaining": 0, "shared": True}
    assert len(simulator.calls()) == 10


def test_a_read_that_cannot_be_had_for_want_of_budget_is_refused_without_waiting_in_vain(alone):
    with alone(quantapay_budget="1/hour") as outside:
        assert outside.http.get("/balances").status_code == 200
        started = time.monotonic()
        assert outside.http.get("/balances").status_code == 503
        assert time.monotonic() - started < 1, "the next call is free in an hour, no use in waiting for it"


def test_two_gateways_share_the_budget(settings_of, simulator, valkey_factory):
    settings = settings_of(redis_url=valkey_factory().url, quantapay_budget="20/minute")
    with running(settings) as one, running(settings) as other, ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda turn: (one, other)[turn % 2].http.get(f"/transactions/{turn}").status_code, range(40))
        )
    assert set(answers) == {404, 503}
    assert len(simulator.calls()) <= 16


def test_when_quantapay_throttles_the_budget_is_halved_for_a_minute(alone, simulator):
    with alone(quantapay_budget="10/minute") as outside:
        simulator.scenario("throttled-429", times=1)
        answer = outside.http.get("/balances")
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("upstream-throttled", "7")
        assert [outside.http.get("/balances").status_code for _ in range(4)] == [200, 200, 200, 503]
        assert outside.ops("/status").json()["budget"]["limit"] == 5


def test_the_budget_goes_on_from_a_local_share_without_redis(settings_of, simulator, valkey_factory):
    server = valkey_factory()
    with running(settings_of(redis_url=server.url, quantapay_budget="10/minute"), redis_deadline=DEADLINE) as outside:
        assert outside.http.get("/balances").status_code == 200
        server.kill()
        answers = [outside.http.get("/balances").status_code for _ in range(12)]
        assert answers[0] == 200
        assert answers[-1] == 503
        assert outside.ops("/status").json()["budget"]["shared"] is False
    assert len(simulator.calls()) <= 10


def test_a_function_that_keeps_failing_is_not_asked_until_a_probe_is_due(alone, simulator):
    clock = ShiftedClock()
    with alone(clock=clock) as outside:
        simulator.scenario("html-error", function="get-balances")
        codes = [outside.http.get("/balances").json()["code"] for _ in range(14)]
        assert codes[0] == "upstream-invalid-response"
        assert codes[-1] == "upstream-unavailable"
        asked = len(simulator.calls())
        refused = outside.http.get("/balances")
        assert (refused.status_code, refused.json()["code"]) == (503, "upstream-unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert len(simulator.calls()) == asked
        assert outside.http.get("/credit-balance").status_code == 200, "another function goes on"
        assert outside.ops("/status").json()["breakers"]["get-balances"] == "open"
        assert outside.metric("quantapay_breaker_state", function="get-balances", state="open") == 1

        clock.ahead += 5
        assert outside.http.get("/balances").status_code == 502, "one probe, which fails"
        asked = len(simulator.calls())
        assert outside.http.get("/balances").status_code == 503
        assert len(simulator.calls()) == asked

        simulator.reset()
        clock.ahead += 5
        assert outside.http.get("/balances").status_code == 200
        assert outside.ops("/status").json()["breakers"]["get-balances"] == "closed"
        assert outside.http.get("/balances").status_code == 200


def test_when_quantapay_cannot_be_reached_no_function_tries_for_long(alone):
    with alone(quantapay_url=f"http://127.0.0.1:{free_port()}/api.php") as outside:
        for _ in range(12):
            answer = outside.http.get("/balances")
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream-unavailable")
        assert outside.ops("/status").json()["breakers"]["connect"] == "open"
        started = time.monotonic()
        create = outside.http.post("/checkout-sessions", json=ORDER)
        assert time.monotonic() - started < 2, "the deadline is 5 s"
        assert (create.status_code, create.json()["outcome"]) == (503, "not_sent")
        assert int(create.headers["retry-after"]) >= 1


def test_one_hanging_function_stops_no_other(alone, simulator):
    with alone(quantapay_timeout=2.0) as outside, ThreadPoolExecutor(100) as pool:
        simulator.scenario("hang", function="get-transaction")
        hanging = [pool.submit(outside.http.get, f"/transactions/{number}") for number in range(90)]
        time.sleep(0.5)
        started = time.monotonic()
        assert outside.http.get("/balances").status_code == 200
        assert outside.http.post("/checkout-sessions", json=ORDER).status_code == 201
        assert time.monotonic() - started < 1
        codes = {future.result().json()["code"] for future in hanging}
    assert codes <= {"upstream-timeout", "overloaded", "upstream-unavailable"}
    assert {"upstream-timeout", "overloaded"} <= codes


def test_a_read_that_was_cut_off_is_tried_again_and_a_create_is_not(alone, simulator):
    with alone() as outside:
        simulator.scenario("cut-off", times=1)
        assert outside.http.get("/balances").status_code == 200
        assert len(simulator.calls()) == 2
        simulator.reset()
        simulator.scenario("cut-off", times=1)
        answer = outside.http.post("/checkout-sessions", json=ORDER)
        assert (answer.status_code, answer.json()["outcome"]) == (502, "unknown")
        assert len(simulator.calls()) == 1
