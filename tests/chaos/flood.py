"""How much one client's flood slows another down: `python -m tests.chaos.flood` prints the ratio of their 99th percentiles.

Calm and flood alternate, so that whatever else the machine does falls on both. A figure, not a test: machines are noisy.
"""

import multiprocessing
import statistics
import tempfile
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import typer
from pydantic import SecretStr

from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.gateway import API_KEY, ORDERS_KEY, READER_KEY, WEBHOOK_SECRET
from tests.plugins.processes import GatewayProcess
from tests.plugins.valkey import ValkeyServer

ROUNDS = 5
SECONDS = 4.0
"""Of each half of a round."""
RATE = 100
"""Requests a second of the client that is measured."""
FLOOD = 500
"""Requests a second of the client whose limit is 3 an hour."""
CONNECTIONS = 4


def send(port: int, key: str, rate: float, seconds: float) -> list[float]:
    """Ask for balances at a steady rate over one connection; return the seconds that each answer took."""
    connection = HTTPConnection("127.0.0.1", port)
    took: list[float] = []
    due = time.monotonic()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        started = time.monotonic()
        connection.request("GET", "/balances", headers={"Authorization": f"Bearer {key}"})
        connection.getresponse().read()
        took.append(time.monotonic() - started)
        due += 1 / rate
    connection.close()
    return took


def main() -> None:
    """Measure, and print each round and the median ratio."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantapay-flood-")))
        valkey = ValkeyServer(folder)
        stack.callback(valkey.stop)
        options = SimulatorOptions(
            api_key=SecretStr(API_KEY), webhook_secret=SecretStr(WEBHOOK_SECRET), throttle_per_minute=None
        )
        upstream = stack.enter_context(running_simulator(options))
        gateway = GatewayProcess(
            folder,
            {
                "QUANTAPAY_API_KEY": API_KEY,
                "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
                "QUANTAPAY_URL": f"{upstream}/api.php",
                "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
                "QUANTAPAY_BUDGET": "1000000/second",
                "GATEWAY_REDIS_URL": valkey.url,
            },
        )
        stack.callback(gateway.stop)
        ratios = []
        with multiprocessing.Pool(CONNECTIONS) as flooders:
            for number in range(ROUNDS):
                calm = p99(send(gateway.port, ORDERS_KEY, RATE, SECONDS))
                each = (gateway.port, READER_KEY, FLOOD / CONNECTIONS, SECONDS)
                flooding = flooders.starmap_async(send, [each] * CONNECTIONS)
                flooded = p99(send(gateway.port, ORDERS_KEY, RATE, SECONDS))
                refused = sum(map(len, flooding.get()))
                ratios.append(flooded / calm)
                typer.echo(
                    f"{number + 1}: p99 {calm * 1000:.2f} ms calm, {flooded * 1000:.2f} ms flooded"
                    f" with {refused / SECONDS:.0f}/s, ratio {ratios[-1]:.2f}"
                )
        typer.echo(f"median ratio {statistics.median(ratios):.2f}")


def p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[-1]


if __name__ == "__main__":
    main()
