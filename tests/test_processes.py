"""The running program: real processes, signals, several workers, an embedded Valkey."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.config.keys import sha256_hex
from tests.plugins.gateway import API_KEY, MARKER, ORDERS_KEY, WEBHOOK_SECRET, Simulator, example_config
from tests.plugins.program import Program, alive, children, free_port, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

BEARER = {"Authorization": f"Bearer {ORDERS_KEY}"}
TIMEOUT = 5.0


@dataclass
class Served:
    """A running `serve`, its workers included."""

    program: Program
    url: str
    ops_url: str
    config: Path

    def get(self, path: str) -> httpx.Response:
        """Ask on a connection of its own, as a load balancer's check does."""
        return httpx.get(self.url + path, headers=BEARER, timeout=20)

    def ready(self) -> int | None:
        """Return what `/readyz` answers; None when nobody listens any more."""
        try:
            return self.get("/readyz").status_code
        except httpx.TransportError:
            return None

    def status(self) -> dict[str, dict[str, object]]:
        return httpx.get(f"{self.ops_url}/status").raise_for_status().json()

    def answering(self) -> int:
        try:
            return self.status()["workers"]["answering"]
        except httpx.TransportError:
            self.program.running()
            return 0

    def workers(self) -> list[int]:
        return children(self.program.pid, "gateway worker")

    def metrics(self) -> str:
        return httpx.get(f"{self.ops_url}/metrics").raise_for_status().text

    def samples(self, name: str, **labels: str) -> list[float]:
        """Return the values of every series of that name that has at least these labels."""
        return [
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def lines(self, event: str) -> list[dict[str, object]]:
        """Return the log lines of an event; every line on standard output must be JSON."""
        lines = [json.loads(line) for line in self.program.out.splitlines()]
        return [line for line in lines if line["event"] == event]


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path, simulator: Simulator, valkey) -> Iterator[Serve]:
    """Starts `serve` on free ports and returns when all its workers answer."""
    started: list[Served] = []

    def start(*, workers: int = 1, config: dict[str, object] | None = None, **variables: str) -> Served:
        home = tmp_path / f"gateway-{len(started)}"
        home.mkdir()
        path = home / "gateway.yaml"
        path.write_text(yaml.safe_dump(config or example_config()), encoding="utf-8")
        port, ops_port = free_port(), free_port()
        settings = {
            "QUANTAPAY_API_KEY": API_KEY,
            "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "QUANTAPAY_URL": f"{simulator.url}/api.php",
            "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
            "QUANTAPAY_TIMEOUT": str(TIMEOUT),
            "GATEWAY_REDIS_URL": valkey.url,
            "GATEWAY_PORT": str(port),
            "GATEWAY_OPS_PORT": str(ops_port),
            "GATEWAY_WORKERS": str(workers),
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        program = Program("serve", cwd=home, **{**settings, **variables})
        served = Served(program, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ops_port}", path)
        started.append(served)
        until(lambda: served.answering() == workers, what="all workers answer")
        until(lambda: served.ready() == 200, what="it is ready")
        return served

    yield start
    for served in started:
        served.program.close()
    for served in started:
        assert MARKER not in served.program.out + served.program.err


both = pytest.mark.parametrize("workers", [1, 2])


@both
def test_it_answers_on_both_listeners_and_logs_one_line_a_request(serve: Serve, workers: int) -> None:
    served = serve(workers=workers)
    for _ in range(6):
        assert served.get("/balances").status_code == 200
    assert httpx.get(f"{served.ops_url}/livez").json() == {"status": "ok"}
    status = served.status()
    assert status["ready"] is True
    assert (status["workers"]["expected"], status["workers"]["answering"]) == (workers, workers)
    assert status["store"] == {"up": True, "embedded": False, "processes_seen": status["store"]["processes_seen"]}
    lines = [line for line in served.lines("request") if line["route"] == "/balances"]
    assert [line["status"] for line in lines] == [200] * 6
    assert len({line["request_id"] for line in lines}) == 6
    assert {line["client"] for line in lines} == {"orders"}


def test_metrics_are_summed_over_workers_without_a_pid(serve: Serve) -> None:
    served = serve(workers=2)
    for stopped, requests in zip(served.workers(), (3, 5), strict=True):  # so each worker has its part
        served_by_the_other(served, stopped, requests)
    assert served.samples("gateway_http_requests_total", route="/balances", status="200") == [8]
    assert served.samples("gateway_http_request_duration_seconds_count", route="/balances") == [8]
    assert served.samples("gateway_redis_up") == [1]
    assert served.samples("gateway_build_info") == [1]
    assert "pid=" not in served.metrics()


def served_by_the_other(served: Served, stopped: int, requests: int) -> None:
    os.kill(stopped, signal.SIGSTOP)
    try:
        for _ in range(requests):
            assert served.get("/balances").status_code == 200
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_a_killed_worker_is_replaced_and_takes_no_counter_with_it(serve: Serve, simulator: Simulator) -> None:
    served = serve(workers=2)
    first, second = served.workers()
    served_by_the_other(served, second, 4)
    simulator.scenario("slow", seconds=3)
    with ThreadPoolExecutor() as pool:
        os.kill(second, signal.SIGSTOP)
        in_flight = pool.submit(served.get, "/credit-balance")  # so the first has it
        until(lambda: served.samples("gateway_http_requests_in_flight") == [1], what="the request is in flight")
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        assert isinstance(in_flight.exception(), httpx.TransportError)
    simulator.reset()
    until(lambda: len(served.workers()) == 2 and first not in served.workers(), what="there is a new worker")
    until(lambda: served.answering() == 2, what="it answers")
    assert served.samples("gateway_http_requests_total", route="/balances") == [4]
    assert served.samples("gateway_http_requests_in_flight") == [0]
    assert served.samples("gateway_redis_up") == [1]
    served_by_the_other(served, second, 2)
    assert served.samples("gateway_http_requests_total", route="/balances") == [6]
    [line] = served.lines("worker died")
    assert line["exit_code"] == -signal.SIGKILL


def test_workers_end_with_a_killed_supervisor_and_free_the_port(serve: Serve) -> None:
    served = serve(workers=2)
    workers = served.workers()
    served.program.send(signal.SIGKILL)
    served.program.wait()
    until(lambda: not any(alive(worker) for worker in workers), what="the workers have ended")
    assert served.ready() is None


@both
def test_sigterm_drains_finishes_what_is_in_flight_and_exits_with_0(
    serve: Serve, simulator: Simulator, workers: int
) -> None:
    drain = 1.5
    served = serve(workers=workers, GATEWAY_DRAIN_SECONDS=str(drain))
    simulator.scenario("slow", seconds=3, function="get-credit-balance")
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(served.get, "/credit-balance")
        until(lambda: sum(served.samples("gateway_http_requests_in_flight")) >= 1, what="the request is in flight")
        told = time.monotonic()
        served.program.send(signal.SIGTERM)
        until(lambda: served.ready() == 503, within=drain, what="it is not ready at once")
        assert served.get("/balances").status_code == 200
        until(lambda: served.ready() is None, within=drain + 1, what="it stops accepting")
        assert not in_flight.done()
        assert in_flight.result().status_code == 200
        assert served.program.wait() == 0
    assert time.monotonic() - told < drain + TIMEOUT + 2
    assert served.program.err == ""


@both
def test_a_second_signal_skips_the_drain(serve: Serve, workers: int) -> None:
    served = serve(workers=workers, GATEWAY_DRAIN_SECONDS="300")
    served.program.send(signal.SIGTERM)
    until(lambda: served.ready() == 503, what="it drains")
    served.program.send(signal.SIGINT)
    assert served.program.wait(10) == 0


@both
def test_sighup_reads_gateway_yaml_again(serve: Serve, workers: int) -> None:
    served = serve(workers=workers)
    assert served.status()["configuration"] == {"clients": 2, "newest_in_force": True}
    served.config.write_text(yaml.safe_dump({"clients": []}), encoding="utf-8")
    served.program.send(signal.SIGHUP)
    reloads = "gateway_config_reloads_total"
    # Every two seconds it looks by itself too: only the signal makes all workers read at once.
    until(lambda: served.samples(reloads, result="success")[0] >= workers, what="all workers have read it")
    assert served.status()["configuration"] == {"clients": 0, "newest_in_force": True}
    assert served.get("/balances").status_code == 401

    before = served.samples(reloads, result="success")[0]
    served.program.send(signal.SIGHUP)  # also when the file is the same, as its secrets may have changed
    until(lambda: served.samples(reloads, result="success")[0] == before + workers, what="it is read once more")

    served.config.write_text("clients: 7", encoding="utf-8")
    served.program.send(signal.SIGHUP)
    until(lambda: served.samples(reloads, result="failure")[0] >= workers, what="the bad file is counted")
    assert served.status()["configuration"] == {"clients": 0, "newest_in_force": False}
    assert served.ready() == 200


@both
def test_an_embedded_valkey_ends_with_the_gateway_even_by_sigkill(serve: Serve, tmp_path: Path, workers: int) -> None:
    data = tmp_path / "data"
    served = serve(workers=workers, GATEWAY_REDIS_URL="embedded", GATEWAY_DATA_DIR=str(data))
    assert served.get("/balances").status_code == 200
    store = served.status()["store"]
    assert (store["up"], store["embedded"]) == (True, True)
    assert "one replica only" in served.program.err
    assert list(data.rglob("*.aof")), "it keeps what it holds"
    [valkey] = children(served.program.pid, "valkey-server")
    served.program.send(signal.SIGKILL)
    served.program.wait()
    until(lambda: not alive(valkey), what="the Valkey has ended")


def test_an_embedded_valkey_ends_with_a_clean_stop_and_a_second_gateway_may_not_share_it(
    serve: Serve, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    served = serve(GATEWAY_REDIS_URL="embedded", GATEWAY_DATA_DIR=str(data))
    [valkey] = children(served.program.pid, "valkey-server")
    with pytest.raises(AssertionError, match="in use by another gateway") as refused:
        serve(GATEWAY_REDIS_URL="embedded", GATEWAY_DATA_DIR=str(data))
    assert "ended with 1" in str(refused.value)
    served.program.send(signal.SIGTERM)
    assert served.program.wait() == 0
    assert not alive(valkey)


def test_four_processes_let_through_exactly_the_limit_of_a_client(serve: Serve) -> None:
    client = {"id": "orders", "key_sha256": sha256_hex(ORDERS_KEY), "scopes": ["balances:read"]}
    config = {"clients": [{**client, "rate_limit": "50/hour"}]}
    replicas = [serve(workers=2, config=config) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda turn: replicas[turn % 2].get("/balances").status_code, range(200)))
    assert Counter(answers) == {200: 50, 429: 150}
    for replica in replicas:
        assert sum(replica.samples("gateway_rate_limit_decisions_total", store="local")) == 0
        assert sum(replica.samples("gateway_rate_limit_decisions_total", store="redis")) == 100
