"""A whole gateway on real sockets, between a real Valkey and the QuantaPay simulator, for the tests of its outside.

Every secret of it is a canary: it holds a marker that must turn up nowhere. What the gateway logs and answers during
the whole run is searched for the marker at the end.
"""

import asyncio
import hashlib
import hmac
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import structlog
import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from gateway.app import Gateway
from gateway.clock import SystemClock
from gateway.config import Scope
from gateway.config.keys import sha256_hex
from gateway.quantapay.guard import Guard, Retries
from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from gateway.server import Listener, bind
from gateway.settings import Settings
from gateway.store.client import connect
from gateway.telemetry import logs, status

MARKER = "CANARY"
API_KEY = f"{MARKER}-api-key-0f1e2d3c"
WEBHOOK_SECRET = f"{MARKER}-webhook-secret-4b5a"
ORDERS_KEY = "qsk_" + f"{MARKER}orders".ljust(43, "0")
READER_KEY = "qsk_" + f"{MARKER}reader".ljust(43, "0")
ROTATED_KEY = "qsk_" + f"{MARKER}rotated".ljust(43, "0")
QUOTE_SECRET = f"{MARKER}-quote-secret-of-the-storefront"
MARKET_SECRET = f"{MARKER}-quote-secret-of-the-market-place"
SHOP_KEY = "qpk_" + "storefront".ljust(43, "0")
MARKET_KEY = "qpk_" + "market".ljust(43, "0")
SHOP, MARKET = "https://shop.example", "https://market.example"
"""Origins of two front ends."""


def quote(
    price: str = "49.99",
    currency: str = "usd",
    order_id: str = "ORD-1",
    *,
    at: int | None = None,
    secret: str = QUOTE_SECRET,
    client: str = "storefront",
) -> dict[str, object]:
    """Return a quote as a shop's server signs it (interface §3.5), made without the gateway's own code."""
    timestamp = int(time.time()) if at is None else at
    text = f"qpg-quote-v1|{client}|{price}|{currency}|{order_id}|{timestamp}"
    signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return {
        "price": price,
        "currency": currency,
        "order_id": order_id,
        "timestamp": timestamp,
        "signature": signature,
    }


class ShiftedClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def time(self) -> float:
        return super().time() + self.ahead


class Simulator:
    """The simulator's outside: its scenarios, and what it was called with."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/simulator")

    def scenario(self, name: str, **options: object) -> None:
        self._http.post("/scenario", json={"name": name, **options}).raise_for_status()

    def calls(self) -> list[dict[str, object]]:
        found = self._http.get("/calls").raise_for_status().json()
        return found["calls"] if isinstance(found, dict) else found

    def reset(self) -> None:
        self._http.post("/reset").raise_for_status()

    def close(self) -> None:
        self._http.close()


@dataclass
class Outside:
    """A running gateway as others see it. Everything it answers is kept, to be searched."""

    url: str
    ops_url: str
    inside: Gateway
    seen: list[str]
    portal: BlockingPortal
    """Calls functions in the event loop of the gateway."""
    http: httpx.Client = field(init=False)
    browser: httpx.Client = field(init=False)
    """A page of the shop: the publishable key, and the origin."""

    def __post_init__(self) -> None:
        self.http = self.client(ORDERS_KEY)
        self.browser = self.client(SHOP_KEY, Origin=SHOP)

    def client(self, key: str | None, **more: str) -> httpx.Client:
        """Return a client that sends `key` and more headers; close it."""
        headers = more if key is None else {"Authorization": f"Bearer {key}", **more}
        return httpx.Client(base_url=self.url, headers=headers, event_hooks={"response": [self._keep]}, timeout=20)

    def _keep(self, response: httpx.Response) -> None:
        response.read()
        self.seen.append(f"{response.headers} {response.text}")

    def ops(self, path: str) -> httpx.Response:
        return httpx.get(self.ops_url + path)

    def metric(self, name: str, **labels: str) -> float:
        value = self.inside.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


def front_end(name: str, key: str, origin: str, secret: str, **more: object) -> dict[str, object]:
    """Return a client with a publishable key whose limits no test meets by accident."""
    return {
        "id": name,
        "publishable_key": key,
        "origins": [origin],
        "quote_secret": secret,
        "scopes": ["rates:read", "checkout-sessions:write"],
        "currencies": ["usd", "eur"],
        "rate_limit": "1000000/minute",
        "rate_limit_per_ip": "1000000/minute",
        **more,
    }


def example_config() -> dict[str, object]:
    """Return a gateway.yaml with a client that may do all, one that may read balances, and two front ends."""
    return {
        "clients": [
            {
                "id": "orders",
                "key_sha256": [sha256_hex(ORDERS_KEY), sha256_hex(ROTATED_KEY)],
                "scopes": [str(scope) for scope in Scope],
                "rate_limit": "1000000/minute",
            },
            {"id": "reader", "key_sha256": sha256_hex(READER_KEY), "scopes": ["balances:read"], "rate_limit": "3/hour"},
            front_end("storefront", SHOP_KEY, SHOP, QUOTE_SECRET),
            front_end("market", MARKET_KEY, MARKET, MARKET_SECRET),
        ],
        # Each test wants its own answer from QuantaPay; those of the cache have a gateway with one.
        "cache": {"balances": 0, "exchange_rates": 0, "credit_balance": 0, "cryptocurrencies": 0},
        "functions": {"allow": ["get-fiat-value", "get-balances", "odd-one", "get-transaction"]},
    }


@asynccontextmanager
async def _served(gateway: Gateway):
    """Run both listeners of a gateway on free ports in this event loop; yield the two base URLs."""

    async def whole_status():
        return status.document([gateway.status()], expected=1, embedded_store=False)

    sockets = [bind("127.0.0.1", 0) for _ in range(2)]
    public = Listener(gateway.public_app(), sockets[0], lifespan=True, grace=2)
    ops = Listener(gateway.ops_app(whole_status), sockets[1], lifespan=False, grace=1)
    urls = [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    async with AsyncExitStack() as stack:
        for listener in (public, ops):
            task = asyncio.create_task(listener.run_until_stopped())
            stack.push_async_callback(_stop, listener, task)
            while not listener.started and not task.done():
                await asyncio.sleep(0.005)
        yield urls


async def _stop(listener: Listener, task: asyncio.Task[None]) -> None:
    listener.should_exit = True
    await task


PATIENCE = 10.0
"""Seconds: the gateways, simulators and clients of a test share one process, and are not to be told that Redis is gone
when only that is busy."""


@contextmanager
def running(
    settings: Settings, *, seen: list[str] | None = None, redis_deadline: float = PATIENCE, **parts: object
) -> Iterator[Outside]:
    """Run a gateway in a thread of its own. Tests of a Redis that does not answer want the real `DEADLINE`."""
    with start_blocking_portal("asyncio") as portal:
        assert settings.redis_url is not None

        def build() -> Gateway:
            redis = connect(settings.redis_url, deadline=redis_deadline)
            return Gateway(settings, redis=redis, redis_deadline=redis_deadline, **parts)

        gateway = portal.call(build)
        with portal.wrap_async_context_manager(_served(gateway)) as (url, ops_url):
            outside = Outside(url, ops_url, gateway, [] if seen is None else seen, portal)
            try:
                yield outside
            finally:
                outside.http.close()
                outside.browser.close()


class Lines(io.StringIO):
    """Where log lines go: written by several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            return super().write(text)


@pytest.fixture(scope="session")
def log_lines() -> Iterator[Lines]:
    """Everything the gateways of this session log, as JSON lines. Nothing is redacted on the way here."""
    lines = Lines()
    logs.configure(level="debug", json=True, secrets=[], stream=lines)
    yield lines
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def _session_simulator() -> Iterator[Simulator]:
    options = SimulatorOptions(
        api_key=SecretStr(API_KEY),
        webhook_secret=SecretStr(WEBHOOK_SECRET),
        completes_after=0.0,
        throttle_per_minute=None,
    )
    with running_simulator(options) as url:
        simulator = Simulator(url)
        yield simulator
        simulator.close()


@pytest.fixture
def simulator(_session_simulator: Simulator) -> Simulator:
    """The session's QuantaPay, empty and well behaved."""
    _session_simulator.reset()
    return _session_simulator


@pytest.fixture(scope="session")
def settings_of(
    _session_simulator: Simulator, _session_valkey, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Settings]:
    """Makes settings for a gateway on the session's Valkey and simulator; arguments override."""

    def make(config: dict[str, object] | Path | None = None, **overrides: object) -> Settings:
        path = config
        if not isinstance(config, Path):
            path = tmp_path_factory.mktemp("config") / "gateway.yaml"
            path.write_text(yaml.safe_dump(config or example_config()), encoding="utf-8")
        defaults = {
            "quantapay_api_key": API_KEY,
            "quantapay_webhook_secret": WEBHOOK_SECRET,
            "quantapay_url": f"{_session_simulator.url}/api.php",
            "quantapay_payment_hosts": "127.0.0.1",
            "quantapay_timeout": 5.0,
            "quantapay_budget": "1000000/second",
            "redis_url": _session_valkey.url,
            "config": path,
        }
        return Settings(**{**defaults, **overrides})

    return make


@pytest.fixture(scope="session")
def _session_gateway(settings_of, log_lines: Lines) -> Iterator[Outside]:
    with running(settings_of()) as outside:
        yield outside
        seen = [log_lines.getvalue(), *outside.seen, outside.ops("/metrics").text, outside.ops("/status").text]
    leaks = [text[max(0, text.index(MARKER) - 200) :][:400] for text in seen if MARKER in text]
    assert not leaks, f"a secret got out during the run: {leaks[0]}"


@pytest.fixture
def gateway(_session_gateway: Outside, simulator: Simulator, valkey, log_lines: Lines) -> Outside:
    """The session's gateway, its QuantaPay and its Valkey empty; its log goes to `log_lines`, whatever others did."""
    logs.configure(level="debug", json=True, secrets=[], stream=log_lines)
    forget_failures(_session_gateway)
    return _session_gateway


def look_for_payments(valkey) -> None:
    """Have every open session be due now: reconciliation looks within two seconds instead of twenty."""
    with valkey.client() as redis:
        for member in redis.zrange("qpg:{sessions}:open", 0, -1):
            redis.zadd("qpg:{sessions}:open", {member: 0}, xx=True)
        redis.delete("qpg:{sessions}:sweep")


def forget_failures(outside: Outside) -> None:
    """Close every breaker, fill up the retries, forgive every refusal: what one test did is no concern of the next."""
    quantapay, clock = outside.inside.services.quantapay, SystemClock()
    quantapay._guard = Guard(clock=clock, metrics=outside.inside.metrics)
    quantapay._retries = Retries(clock)
    outside.inside.services.limiter._refusals.clear()
