"""A real Prometheus, and a real gateway of two workers for it to watch, with traffic of all kinds."""

import http.server
import itertools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr

from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.gateway import API_KEY, ORDERS_KEY, READER_KEY, WEBHOOK_SECRET, example_config
from tests.plugins.processes import GatewayProcess, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
JOB = "quantapay-gateway"
WORKERS = 2


class Prometheus:
    def __init__(self, folder: Path, target: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not installed")
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s", "scrape_timeout": "500ms"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        [job] = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._http = httpx.Client(timeout=20)
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str, **parameters: str) -> dict:
        answer = self._http.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, query: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return the series of an instant query that have a number."""
        found = {
            frozenset(row["metric"].items()): float(row["value"][1]) for row in self.get("query", query=query)["result"]
        }
        return {labels: value for labels, value in found.items() if value == value}  # noqa: PLR0124 - NaN is not

    def number(self, query: str) -> float | None:
        values = list(self.ask(query).values())
        assert len(values) < 2, values
        return values[0] if values else None

    def is_ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return self._http.get(f"{self.url}/-/ready").is_success
        except httpx.TransportError:
            return False

    def scrapes(self) -> float:
        return self.number(f'sum(count_over_time(up{{job="{JOB}"}}[1m]))') or 0

    def stop(self) -> None:
        self._http.close()
        self.process.kill()
        self.process.wait()


class Traffic:
    """What callers of all kinds do, again and again, in a thread; each turn pays for an order of its own."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self.balances_asked = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {ORDERS_KEY}"}
        with httpx.Client(headers=headers, timeout=20) as http:
            for turn in itertools.count():
                if self._over.wait(0.15):
                    return
                with suppress(httpx.TransportError):  # a worker that is killed breaks off what it was answering
                    self._turn(http, turn)

    def _turn(self, http: httpx.Client, turn: int) -> None:
        url = self._gateway.url
        for path in ("/credit-balance", "/exchange-rates/btc?currency=usd", "/nowhere"):
            http.get(url + path)
        http.get(url + "/balances").raise_for_status()
        self.balances_asked += 1
        self._gateway.get("/credit-balance", READER_KEY)  # three an hour, then 429
        order = {"price": "49.99", "currency": "usd", "order_id": f"ORD-{turn}"}
        created = http.post(f"{url}/checkout-sessions", json=order, headers={"Idempotency-Key": f"key-{turn}"})
        session = created.raise_for_status().json()
        http.get(f"{url}/checkout-sessions/{session['id']}").raise_for_status()
        httpx.post(session["payment_url"], data={"action": "pay"}).raise_for_status()

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def subscriber() -> Iterator[str]:
    """Serve one that takes every event."""

    class Takes(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks"
        server.shutdown()
        serving.join()


def prepare(folder: Path, hooks: str) -> None:
    config = example_config()
    config["cache"] = {"balances": 1}
    config["subscribers"] = [{"id": "orders", "url": hooks, "secret": "whsec_" + "A" * 40, "events": ["*"]}]
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config))


@contextmanager
def gateway_of_workers(folder: Path, *, budget: str = "1000000/second") -> Iterator[tuple[GatewayProcess, str]]:
    """Run a gateway, a QuantaPay that tells it of payments, and a subscriber; yield the gateway and QuantaPay's URL."""
    port = free_port()
    options = SimulatorOptions(
        api_key=SecretStr(API_KEY),
        webhook_secret=SecretStr(WEBHOOK_SECRET),
        completes_after=0.0,
        throttle_per_minute=None,
        webhook_url=f"http://127.0.0.1:{port}/webhooks/quantapay",
    )
    with subscriber() as hooks, running_simulator(options) as simulator:
        prepare(folder, hooks)
        environ = {
            "QUANTAPAY_API_KEY": API_KEY,
            "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "QUANTAPAY_URL": f"{simulator}/api.php",
            "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
            "QUANTAPAY_BUDGET": budget,
            "GATEWAY_REDIS_URL": "embedded",
            "GATEWAY_DATA_DIR": str(folder / "data"),
            "GATEWAY_WORKERS": str(WORKERS),
            "GATEWAY_PORT": str(port),
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        gateway = GatewayProcess(folder, environ)
        try:
            yield gateway, simulator
        finally:
            gateway.stop()
