"""Starts and stops what is driven: the gateway as it is deployed, its peers, and the QuantaPay behind them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
import yaml

from gateway.config.keys import sha256_hex
from gateway.store.embedded import url_of_running
from tests.plugins.gateway import API_KEY, QUOTE_SECRET, SHOP, SHOP_KEY, WEBHOOK_SECRET, front_end
from tests.plugins.processes import GatewayProcess, free_port, until

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
UNLIMITED = "1000000/second"
KEY = "qsk_" + "bench".ljust(43, "0")
NUMBERED_KEY = "qsk_" + "c" * 33 + "<number>"
"""Of a client of `numbered_clients`."""
LIMITED_KEY = "qsk_" + "limited".ljust(43, "0")
TOOLS = {"wrk": "apt install wrk", "nginx": "apt install nginx-light", "py-spy": "pip install py-spy"}
"""Program → how to get it, on Debian and Ubuntu."""


@dataclass(frozen=True, slots=True)
class Server:
    """Something that can be driven."""

    url: str
    pid: int
    """Of the process whose processor time counts, with all that it started."""


@dataclass(frozen=True, slots=True)
class GatewayServer(Server):
    """A gateway with everything on, and the Valkey that it brought."""

    folder: Path
    store: redis.Redis
    ops_url: str


def require_tools(names: Sequence[str]) -> None:
    """End with a message that says what to install, if a program is missing."""
    missing = [name for name in names if shutil.which(name, path=_path()) is None]
    if missing:
        commands = "; ".join(TOOLS[name] for name in missing)
        sys.exit(f"bench: not found: {', '.join(missing)}. On Debian and Ubuntu: {commands}")


@contextlib.contextmanager
def running_upstream() -> Iterator[Server]:
    """Run a QuantaPay that only answers."""
    port = free_port()
    with _running([sys.executable, "-m", "tests.bench.upstream", str(port)], port) as pid:
        yield Server(f"http://127.0.0.1:{port}", pid)


@contextlib.contextmanager
def running_peer(name: str, upstream: Server) -> Iterator[Server]:
    """Run an application of `peers/`, as fast as uvicorn serves one in one process."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", f"tests.bench.peers.{name}:app", "--port", str(port), *options]
    environ = {"UPSTREAM_URL": f"{upstream.url}/api.php", "UPSTREAM_KEY": API_KEY}
    with _running(command, port, environ) as pid:
        yield Server(f"http://127.0.0.1:{port}", pid)


@contextlib.contextmanager
def running_nginx(upstream: Server) -> Iterator[Server]:
    """Run nginx as a proxy, with one worker."""
    port = free_port()
    config = (PEERS / "nginx.conf").read_text(encoding="utf-8")
    config = config.replace("LISTEN", str(port)).replace("UPSTREAM", upstream.url.rpartition(":")[2])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "nginx.conf").write_text(config, encoding="utf-8")
        with _running(["nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr"], port) as pid:
            yield Server(f"http://127.0.0.1:{port}", pid)


@contextlib.contextmanager
def running_gateway(
    upstream: Server, *, workers: int = 1, config: Mapping[str, object] | None = None, **environ: str
) -> Iterator[GatewayServer]:
    """Run the real program with its own Valkey, which writes to its log; variables override."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(yaml.safe_dump(dict(config or generous_config())), encoding="utf-8")
        gateway = GatewayProcess(folder, {**variables(upstream), "GATEWAY_WORKERS": str(workers), **environ})
        stack.callback(gateway.stop)
        store = stack.enter_context(redis.Redis.from_url(url_of_running(folder)))
        yield GatewayServer(gateway.url, gateway.process.pid, folder, store, gateway.ops_url)


def variables(upstream: Server) -> dict[str, str]:
    """Return the variables of a gateway that nothing holds up; its data lies in its working directory."""
    return {
        "QUANTAPAY_API_KEY": API_KEY,
        "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "QUANTAPAY_URL": f"{upstream.url}/api.php",
        "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
        "QUANTAPAY_BUDGET": UNLIMITED,
        "GATEWAY_REDIS_URL": "embedded",
        "GATEWAY_DATA_DIR": ".",
        "GATEWAY_DRAIN_SECONDS": "0",
        "GATEWAY_LOG_FORMAT": "json",
    }


def generous_config() -> dict[str, object]:
    """Return a gateway.yaml with a service and a shop that are never refused, and a service that nearly always is."""
    scopes = ["rates:read", "checkout-sessions:read", "checkout-sessions:write", "functions:call"]
    return {
        "clients": [
            {"id": "bench", "key_sha256": sha256_hex(KEY), "scopes": scopes, "rate_limit": UNLIMITED},
            {"id": "limited", "key_sha256": sha256_hex(LIMITED_KEY), "scopes": ["rates:read"], "rate_limit": "1/hour"},
            front_end("shop", SHOP_KEY, SHOP, QUOTE_SECRET, rate_limit=UNLIMITED, rate_limit_per_ip=UNLIMITED),
        ],
        "cache": {"exchange_rates": 3600},
        "functions": {"allow": ["get-network-fee"]},
    }


def numbered_clients(count: int, *, rate_limit: str = UNLIMITED) -> list[object]:
    """Return so many services that may read rates, for `gateway.yaml`."""
    return [
        {
            "id": f"client-{number:010d}",
            "key_sha256": sha256_hex(numbered_key(number)),
            "scopes": ["rates:read"],
            "rate_limit": rate_limit,
        }
        for number in range(count)
    ]


def numbered_key(number: int) -> str:
    """Return the key of one of `numbered_clients`."""
    return NUMBERED_KEY.replace("<number>", f"{number:010d}")


@contextlib.contextmanager
def _running(command: list[str], port: int, environ: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a program until it listens and on to the end of the block; yield its process id."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PATH": _path(), **(environ or {})})
    try:
        until(lambda: _listens(port, process), f"{command[0]} listens")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "it ended at once"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _path() -> str:
    """Return the search path with where Debian has nginx, which is not everyone's."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin"
