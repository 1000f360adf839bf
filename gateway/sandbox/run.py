"""The sandbox: gateway, QuantaPay simulator, shop and Valkey on loopback, with keys and commands to paste."""

import asyncio
import base64
import signal
import socket
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
import yaml
from pydantic import SecretStr

from gateway.app import Gateway
from gateway.clock import Clock, SystemClock
from gateway.config import Scope
from gateway.config.keys import new_publishable_key, new_secret_key, sha256_hex
from gateway.process import run_alone
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.serve import simulator_server
from gateway.sandbox.storefront import HOOK, StorefrontOptions, storefront_server
from gateway.sandbox.welcome import Welcome, greet
from gateway.server import bind
from gateway.settings import Settings
from gateway.store.client import connect
from gateway.store.embedded import EmbeddedValkey
from gateway.telemetry import logs

LOOPBACK = "127.0.0.1"
_SHOP = "storefront"
"""The shop's id, as a client and as a subscriber."""
_PORTS_TO_TRY = 20


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Made anew at each start; they open nothing but this sandbox."""

    api_key: SecretStr
    webhook_secret: SecretStr
    orders_key: SecretStr
    publishable_key: str
    quote_secret: SecretStr
    hook_secret: SecretStr

    @classmethod
    def fresh(cls, clock: Clock) -> "_Secrets":
        return cls(
            api_key=SecretStr(clock.token_hex(16)),
            webhook_secret=SecretStr(clock.token_hex(24)),
            orders_key=new_secret_key(clock),
            publishable_key=new_publishable_key(clock),
            quote_secret=SecretStr(clock.token_hex(32)),
            hook_secret=SecretStr("whsec_" + base64.b64encode(bytes.fromhex(clock.token_hex(32))).decode()),
        )


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Listening, one for each part."""

    public: socket.socket
    ops: socket.socket
    simulator: socket.socket
    storefront: socket.socket


def run_sandbox(*, port: int, ops_port: int, simulator_port: int, storefront_port: int) -> None:
    """Run until Ctrl-C or SIGTERM. Raises `EmbeddedValkeyError`, or `OSError` if no port is free."""
    # Until the listeners handle it, SIGTERM ends this like Ctrl-C, so that an early stop cleans up too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    clock = SystemClock()
    sockets = _Sockets(*(_bind_near(wanted) for wanted in (port, ops_port, simulator_port, storefront_port)))
    with tempfile.TemporaryDirectory(prefix="quantapay-sandbox-") as folder:
        home = Path(folder)
        with EmbeddedValkey(home, durable=False) as valkey:
            world = _run(home, valkey.url, sockets, clock)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(world)


async def _run(home: Path, redis_url: str, sockets: _Sockets, clock: Clock) -> None:
    secrets = _Secrets.fresh(clock)
    simulated = SimulatorOptions(
        api_key=secrets.api_key,
        webhook_secret=secrets.webhook_secret,
        webhook_url=f"{_url(sockets.public)}/webhooks/quantapay",
    )
    simulator_port = sockets.simulator.getsockname()[1]
    sockets.simulator.close()  # it was held so that nothing else took the port
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(simulator_server(simulated, port=simulator_port, clock=clock))
        shop = StorefrontOptions(
            gateway=_url(sockets.public),
            payment_page=f"{simulator}/pay.php",
            client_id=_SHOP,
            publishable_key=secrets.publishable_key,
            quote_secret=secrets.quote_secret,
            hook_secret=secrets.hook_secret,
        )
        await stack.enter_async_context(storefront_server(shop, sockets.storefront, clock))
        settings = Settings(
            quantapay_api_key=secrets.api_key,
            quantapay_webhook_secret=secrets.webhook_secret,
            quantapay_url=f"{simulator}/api.php",
            quantapay_payment_hosts=(LOOPBACK,),
            redis_url=SecretStr(redis_url),
            config=_write_config(home, secrets, storefront=_url(sockets.storefront)),
            drain_seconds=0,
        )
        own = [*settings.secrets().values(), secrets.quote_secret, secrets.hook_secret]
        logs.configure(level="info", json=False, secrets=own)
        welcome = Welcome(
            gateway=_url(sockets.public),
            ops=_url(sockets.ops),
            simulator=simulator,
            storefront=_url(sockets.storefront),
            key=secrets.orders_key,
            publishable_key=secrets.publishable_key,
            config=settings.config,
        )
        await run_alone(
            Gateway(settings, redis=connect(redis_url), clock=clock),
            settings,
            public=sockets.public,
            ops=sockets.ops,
            clock=clock,
            embedded=True,
            on_ready=lambda: greet(welcome),
        )


def _write_config(home: Path, secrets: _Secrets, *, storefront: str) -> Path:
    path = home / "gateway.yaml"
    orders = {
        "id": "orders",
        "key_sha256": sha256_hex(secrets.orders_key.get_secret_value()),
        "scopes": [str(scope) for scope in Scope],
    }
    shop = {
        "id": _SHOP,
        "publishable_key": secrets.publishable_key,
        "origins": [storefront, storefront.replace(LOOPBACK, "localhost")],
        "quote_secret": secrets.quote_secret.get_secret_value(),
        "scopes": ["rates:read", "checkout-sessions:write"],
        "currencies": ["usd", "eur"],
    }
    told = {
        "id": _SHOP,
        "url": f"{storefront}{HOOK}",
        "secret": secrets.hook_secret.get_secret_value(),
    }
    document = {
        "clients": [orders, shop],
        "subscribers": [told],
        "functions": {"allow": ["get-fiat-value", "check-transactions"]},
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def _bind_near(port: int) -> socket.socket:
    """Take `port` or the first free one after it."""
    for candidate in range(port, port + _PORTS_TO_TRY):
        try:
            return bind(LOOPBACK, candidate)
        except OSError as error:
            failure = error
    raise failure


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"http://{host}:{port}"
