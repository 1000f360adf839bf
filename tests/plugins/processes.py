"""Gateways as processes of their own, to be asked, signalled and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from tests.plugins.gateway import API_KEY, ORDERS_KEY, WEBHOOK_SECRET, example_config

PATIENCE = 40.0


def clean_environ(**more: str) -> dict[str, str]:
    """Return this process's environment without variables of the gateway, and with `more`."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("GATEWAY_", "QUANTAPAY_"))}
    return {**inherited, **more}


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and none of them twice: all are held until the last is found."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]


def until(condition: Callable[[], object], what: str, *, every: float = 0.02) -> None:
    """Poll until something is so, and fail by its name if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(every)


def children_of(pid: int) -> list[int]:
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def imported_in(log: str) -> set[str]:
    """Return the modules that a process with PYTHONPROFILEIMPORTTIME=1 imported, by what it wrote."""
    return {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}


def gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


class GatewayProcess:
    """`serve` as a process; its log goes to a file."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        port, self.ops_port = free_ports(2)
        self.port = int(environ.get("GATEWAY_PORT") or port)
        self.url, self.ops_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.ops_port}"
        # One client, which a fresh connection a request keeps honest: a client of its own for each would cost 20 ms.
        self._http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
        self.config = folder / "gateway.yaml"
        if not self.config.exists():
            self.config.write_text(yaml.safe_dump(example_config()))
        self._log = folder / f"log-{self.port}"
        ports = {"GATEWAY_PORT": str(self.port), "GATEWAY_OPS_PORT": str(self.ops_port)}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                env=clean_environ(**{**environ, **ports}),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers = int(environ.get("GATEWAY_WORKERS", "1"))
        try:
            until(self._is_up, "the gateway is ready")
        except BaseException:
            self.stop()
            raise

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return self.status()["workers"]["phases"] == ["ready"] * self.workers
        except httpx.HTTPError:
            return False

    def get(self, path: str, key: str = ORDERS_KEY) -> httpx.Response:
        return self._http.get(self.url + path, headers={"Authorization": f"Bearer {key}"}, timeout=20)

    def status(self) -> dict:
        return self._http.get(f"{self.ops_url}/status").json()

    def samples(self, name: str) -> list[str]:
        text = self._http.get(f"{self.ops_url}/metrics").text
        return [line for line in text.splitlines() if line.startswith(name)]

    def total(self, name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in self.samples(name))

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def imported(self) -> set[str]:
        """Return the modules that it imported, if it was started with PYTHONPROFILEIMPORTTIME=1."""
        return imported_in(self._log.read_text())

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self._http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def start_gateway(simulator, valkey, tmp_path) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts gateway processes on the session's simulator and Valkey; variables override."""
    started: list[GatewayProcess] = []

    def start(**environ: str) -> GatewayProcess:
        defaults = {
            "QUANTAPAY_API_KEY": API_KEY,
            "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "QUANTAPAY_URL": f"{simulator.url}/api.php",
            "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
            "QUANTAPAY_TIMEOUT": "5",
            "QUANTAPAY_BUDGET": "1000000/second",
            "GATEWAY_REDIS_URL": valkey.url,
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        started.append(GatewayProcess(tmp_path, {**defaults, **environ}))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes without coverage, which doubles what a start and a request cost: for tests that are about load."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
