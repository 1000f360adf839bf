"""What a worker and a Redis spend, kind by kind: prints the figures of docs/capacity.md, in about half a minute.

    python -m tests.bench.capacity

The gateway is the real program with one worker and its own Valkey, which writes to its log. QuantaPay is the simulator,
in this process; the subscriber is away, so that events stay where they can be weighed. Requests come one after the
other over one connection: what is told is the work that each makes, and not how long it waits for others.
"""

import contextlib
import hashlib
import os
import re
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis
import yaml
from pydantic import SecretStr

from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from gateway.store.embedded import url_of_running
from tests.bench.event_streams import resident
from tests.bench.webhook_intake import request as webhook
from tests.plugins.gateway import API_KEY, ORDERS_KEY, WEBHOOK_SECRET, example_config
from tests.plugins.processes import GatewayProcess, free_port, until

SECRET_OF_THE_SUBSCRIBER = "whsec_" + "c3Vic2NyaWJlci1zZWNyZXQtb2YtdGhlLWJlbmNoLTAx"
CLIENTS = 2_000
STREAMS = 200
PAYMENTS = 200
WAITING = "qpg:{events}:subscriber:orders:messages"
IDLE_SECONDS = 5.0
NOT_THE_GATEWAYS = {"info", "scan", "memory|usage", "config|resetstat", "client|setinfo", "hello"}
"""Commands that only this program sends."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Since the start: seconds of processor, and commands that Redis ran."""

    at: float
    worker: float
    redis: float
    scripts: int
    """Scripts, each one message there and back."""
    commands: int
    """All, those within scripts too."""


class Bench:
    """A gateway of one worker, and the Valkey that it brought."""

    def __init__(self, gateway: GatewayProcess, store: redis.Redis) -> None:
        self.gateway = gateway
        self.store = store
        headers = {"Authorization": f"Bearer {ORDERS_KEY}"}
        self.http = httpx.Client(base_url=gateway.url, headers=headers, timeout=20)
        self._idle = (0.0, 0.0, 0.0, 0.0)
        """What a second costs without a request: the fields of `Spent` after the first."""

    def spent(self) -> Spent:
        """Look at what the worker and Redis have used so far."""
        stat = Path(f"/proc/{self.gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])  # utime and stime, proc_pid_stat(5)
        cpu = self.store.info("cpu")
        stats = self.store.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
        return Spent(
            at=time.monotonic(),
            worker=ticks / os.sysconf("SC_CLK_TCK"),
            redis=cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            scripts=calls.get("evalsha", 0),
            commands=sum(count for name, count in calls.items() if name not in NOT_THE_GATEWAYS),
        )

    def rest(self) -> None:
        """Measure what is spent without a request."""
        self._idle = self._each(lambda: time.sleep(IDLE_SECONDS), IDLE_SECONDS)
        worker, store, _, commands = self._idle
        say("idle, a second", f"worker {worker * 1e3:.1f} ms, Redis {store * 1e6:.0f} µs, {commands:.1f} commands")

    def measure(self, kind: str, count: int, send: Callable[[int], None]) -> None:
        """Send `count` requests; print what each cost beyond what is spent anyway."""

        def send_all() -> None:
            for number in range(count):
                send(number)

        send(count)  # scripts are loaded, connections open
        started = time.monotonic()
        costs = self._each(send_all, count)
        seconds = (time.monotonic() - started) / count
        worker, store, scripts, commands = (cost - idle * seconds for cost, idle in zip(costs, self._idle, strict=True))
        say(
            kind,
            f"worker {worker * 1e3:.2f} ms, Redis {store * 1e6:.0f} µs, {scripts:.1f} scripts, {commands:.1f} commands",
        )

    def _each(self, act: Callable[[], None], count: float) -> tuple[float, float, float, float]:
        before = self.spent()
        act()
        after = self.spent()
        return (
            (after.worker - before.worker) / count,
            (after.redis - before.redis) / count,
            (after.scripts - before.scripts) / count,
            (after.commands - before.commands) / count,
        )

    def get(self, path: str) -> None:
        """Send a read that must succeed."""
        self.http.get(path).raise_for_status()

    def create(self, order: str) -> str:
        """Create a session for an order of 25.00 usd; return its id."""
        body = {"price": "25.00", "currency": "usd", "order_id": order}
        answer = self.http.post("/checkout-sessions", json=body, headers={"Idempotency-Key": order})
        return str(answer.raise_for_status().json()["id"])

    @contextlib.contextmanager
    def stream(self, session: str) -> Iterator[None]:
        """Have an event stream open that has brought the session's present state."""
        with socket.create_connection(("127.0.0.1", self.gateway.port)) as sock:
            head = f"GET /checkout-sessions/{session}/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {ORDERS_KEY}"
            sock.sendall(f"{head}\r\n\r\n".encode())
            got = b""
            while b"data:" not in got:
                got += sock.recv(4096)
            yield

    def tell(self, connection: socket.socket, number: int) -> None:
        """Send the webhook of the payment of order `A-<number>`; after the last, wait until all are judged."""
        connection.sendall(webhook(number))
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        if number == PAYMENTS - 1:
            until(lambda: self.store.hlen(WAITING) >= PAYMENTS, "every payment has its event", every=0.1)

    def resident(self) -> int:
        """Return the worker's resident memory in bytes."""
        return resident(self.gateway.process.pid)


@contextlib.contextmanager
def bench(quantapay: str, *, more_clients: int = 0) -> Iterator[Bench]:
    """Run a gateway with its own Valkey, for as many clients more."""
    config = example_config()
    del config["cache"]
    config["webhooks"] = {"confirm": "off"}
    url = f"http://127.0.0.1:{free_port()}/hook"
    config["subscribers"] = [{"id": "orders", "url": url, "secret": SECRET_OF_THE_SUBSCRIBER, "events": ["*"]}]
    for number in range(more_clients):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        config["clients"].append({"id": f"client-{number}", "key_sha256": key, "scopes": ["rates:read"]})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
        environ = {
            "QUANTAPAY_API_KEY": API_KEY,
            "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "QUANTAPAY_URL": f"{quantapay}/api.php",
            "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
            "QUANTAPAY_BUDGET": "100000/second",
            "GATEWAY_REDIS_URL": "embedded",
            "GATEWAY_DATA_DIR": name,
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        gateway = GatewayProcess(folder, environ)
        stack.callback(gateway.stop)
        store = stack.enter_context(redis.Redis.from_url(url_of_running(folder)))
        running = Bench(gateway, store)
        stack.callback(running.http.close)
        yield running


def weigh(store: redis.Redis) -> None:
    """Print what each kind of key takes, its name and Redis's own share with it; of a collection, each element."""
    sizes: dict[str, list[float]] = defaultdict(list)
    for key in store.scan_iter("qpg:*", count=1000):
        name = key.decode()
        kind = re.sub(r"[0-9a-f]{32,}", "<hash>", name)
        elements = {b"zset": store.zcard, b"hash": store.hlen}.get(store.type(key)) if kind == name else None
        size = store.memory_usage(key, samples=0)
        sizes[f"{kind}, an element" if elements else kind].append(size / elements(key) if elements else size)
    for kind, found in sorted(sizes.items()):
        say(kind, f"{sum(found) / len(found):.0f} bytes")


def say(what: str, figure: str) -> None:
    """Print one figure."""
    print(f"{what:<58}{figure}", flush=True)  # noqa: T201 - its figures are its report


def main() -> None:
    """Measure and print."""
    options = SimulatorOptions(
        api_key=SecretStr(API_KEY), webhook_secret=SecretStr(WEBHOOK_SECRET), throttle_per_minute=None
    )
    with running_simulator(options) as quantapay:
        with bench(quantapay) as running:
            few = running.resident()
            say("resident, a worker that has just started", f"{few / 2**20:.1f} MiB")
            running.rest()
            running.measure("a read from the cache", 1000, lambda _: running.get("/exchange-rates/btc?currency=usd"))
            running.measure("a read from QuantaPay", 300, lambda _: running.get("/transactions"))
            store_before = running.store.info("memory")["used_memory"]
            sessions: list[str] = []
            running.measure(
                "a create with an idempotency key", 300, lambda n: sessions.append(running.create(f"A-{n}"))
            )
            grown = running.store.info("memory")["used_memory"] - store_before
            say("memory of Redis that a create takes", f"{grown / len(sessions):.0f} bytes")
            running.measure("a read of a session", 300, lambda n: running.get(f"/checkout-sessions/{sessions[n]}"))
            before = running.resident()
            say("resident, after these requests", f"{before / 2**20:.1f} MiB")
            with contextlib.ExitStack() as streams:
                for number in range(STREAMS):
                    streams.enter_context(running.stream(sessions[number]))
                say("an open stream, resident", f"{(running.resident() - before) / STREAMS / 1024:.1f} KiB")
                running.rest()
            with socket.create_connection(("127.0.0.1", running.gateway.port)) as connection:
                running.measure("a webhook, judged and its event kept", PAYMENTS, lambda n: running.tell(connection, n))
            weigh(running.store)
        with bench(quantapay, more_clients=CLIENTS) as running:
            say("resident, each 1,000 clients", f"{(running.resident() - few) / CLIENTS * 1000 / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
