"""Stopping and replacing gateways under load, behind a load balancer that honours `/readyz`: no request is lost."""

import http.client
import signal
import threading
import time
from contextlib import ExitStack

import httpx
import pytest
import yaml

from tests.plugins.chaos_load import CONVERSION, CREATE, READS, under_load
from tests.plugins.gateway import ORDERS_KEY, example_config
from tests.plugins.processes import until

pytestmark = pytest.mark.usefixtures("unmeasured")

DRAIN = 1
"""GATEWAY_DRAIN_SECONDS: ten times as long as the load balancer takes to notice."""
TIMEOUT = 5
"""QUANTAPAY_TIMEOUT, in seconds."""


ASKS = (*READS, *READS, CONVERSION)


@pytest.fixture
def start(start_gateway, tmp_path):
    """Starts a gateway that caches and drains for a second; variables override."""
    config = example_config()
    del config["cache"]
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))

    def start_one(**environ: str):
        return start_gateway(
            **{"GATEWAY_DRAIN_SECONDS": str(DRAIN), "QUANTAPAY_TIMEOUT": str(TIMEOUT), **environ},
        )

    return start_one


def stopped_cleanly(gateway) -> bool:
    started = time.monotonic()
    gateway.send(signal.SIGTERM)
    code = gateway.process.wait(DRAIN + TIMEOUT + 2)
    return code == 0 and time.monotonic() - started >= DRAIN


def test_a_gateway_that_stops_under_load_loses_nothing(start, simulator, rate):
    staying, leaving = start(), start(GATEWAY_WORKERS="2")
    slow: list[httpx.Response] = []
    order = {"price": "12.34", "currency": "usd", "order_id": "SLOW-1"}

    def create_slowly() -> None:
        # The key makes the answer pass through Redis, which must still be there then.
        headers = {"Authorization": f"Bearer {ORDERS_KEY}", "Idempotency-Key": "SLOW-1"}
        while not slow or slow[-1].json().get("outcome") == "not_sent":
            slow.append(httpx.post(f"{leaving.url}/checkout-sessions", json=order, headers=headers, timeout=20))

    with under_load([staying.url, leaving.url], ASKS, rate=rate) as load:
        simulator.scenario("slow", function="create-checkout-session", seconds=DRAIN + 1)
        creating = threading.Thread(target=create_slowly)
        creating.start()
        until(lambda: "create-checkout-session" in str(simulator.calls()[-20:]), "the slow create has begun")
        assert stopped_cleanly(leaving)
        creating.join()
        load.go_on()
    load.assert_nothing_was_lost()
    assert min(backend.asked for backend in load.balancer.backends) > 0
    # It was under way when accepting stopped, and its answer is the right one all the same.
    assert slow[-1].status_code == 201
    assert (slow[-1].json()["price"], slow[-1].json()["order_id"]) == ("12.34", "SLOW-1")


def test_a_rolling_restart_under_load_loses_nothing(start, rate):
    running = [start(), start()]
    with under_load([gateway.url for gateway in running], [*ASKS, CREATE], rate=rate) as load:
        for old in running:
            assert stopped_cleanly(old)
            load.balancer.remove(old.url)
            new = start()
            load.balancer.add(new.url)
            until(lambda: load.balancer.backends[-1].asked > 0, "the new one gets requests")
            load.go_on()
    load.assert_nothing_was_lost()
    assert load.answered.keys() == {*ASKS, CREATE}


def test_a_kept_connection_is_told_before_it_ends(start):
    """Whoever is told `Connection: close` sends nothing more there, so nothing is sent into a closing door."""
    gateway = start()
    with ExitStack() as stack:
        kept = [http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5) for _ in range(5)]
        for connection in kept:
            stack.callback(connection.close)
            assert answers_last(connection) is False
        gateway.send(signal.SIGTERM)
        until(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 503, "the drain has begun")
        assert [answers_last(connection) for connection in kept] == [True] * len(kept)
        assert gateway.process.wait(DRAIN + TIMEOUT + 2) == 0


def answers_last(connection: http.client.HTTPConnection) -> bool:
    """Ask something, and tell whether the answer says that it is the connection's last."""
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    assert answer.status == 200
    last = answer.will_close
    answer.read()
    return last
