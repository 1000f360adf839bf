"""What a gateway is as a process: how soon it is ready, and what memory it takes and keeps."""

import http.client
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import yaml

from tests.bench.event_streams import resident
from tests.bench.field import Field
from tests.bench.findings import Findings, Target
from tests.bench.servers import Server, generous_config, running_gateway, variables
from tests.bench.subjects import CREATE, PASS_THROUGH, RATE, READ, bearer
from tests.bench.wrk import Requests, drive, undisturbed
from tests.plugins.gateway import SHOP, SHOP_KEY
from tests.plugins.processes import clean_environ, free_ports, until
from tests.plugins.valkey import ValkeyServer

STARTS = 7
SOONEST = 1.5
"""Seconds from start to ready."""
MOST_MEMORY = 90.0
"""Megabytes (10⁶ bytes) of one worker."""
ADDRESSES = 100_000
MOST_GROWTH = 1.05
"""Memory after all requests of a soak, in terms of after the first tenth of them."""
PORTION_SECONDS = 10.0
"""Of a soak, between two looks at the memory."""
VISIT = Requests(
    "GET", RATE, 200, bearer(SHOP_KEY, **{"Origin": SHOP, "X-Forwarded-For": "<address>"}), among=ADDRESSES
)
"""A read of a shop's visitor, whose address is counted."""


def start(field: Field, findings: Findings) -> None:
    """Start a gateway on a Valkey that is there, again and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        valkey = ValkeyServer(folder)
        try:
            times = [_seconds_to_ready(field.upstream, valkey, folder) for _ in range(STARTS)]
        finally:
            valkey.stop()
    findings.targets.append(Target("start to ready", SOONEST, median(times), " s"))


def memory(field: Field, findings: Findings, *, soak: int) -> None:
    """Look at a worker that has served some of everything; and at one that serves `soak` requests, if that is not 0."""
    with ExitStack() as stack:
        gateway = stack.enter_context(running_gateway(field.upstream))
        for requests in (READ, PASS_THROUGH, CREATE):
            serve(gateway, requests, seconds=field.pace.seconds, connections=field.pace.connections)
        megabytes = resident(gateway.pid) / 1e6
    findings.targets.append(Target("resident memory of one worker that has served", MOST_MEMORY, megabytes, " MB"))
    if soak:
        _soak(field, findings, soak)


def serve(gateway: Server, requests: Requests, *, seconds: float, connections: int) -> int:
    """Drive a gateway; return how many requests it answered."""
    return undisturbed(partial(drive, gateway.url, requests, seconds=seconds, connections=connections)).requests


def _soak(field: Field, findings: Findings, requests: int) -> None:
    with running_gateway(field.upstream, GATEWAY_TRUSTED_PROXIES="127.0.0.1") as gateway:
        sent, looks = 0, []
        while sent < requests:
            sent += serve(gateway, VISIT, seconds=PORTION_SECONDS, connections=field.pace.connections)
            looks.append((sent, resident(gateway.pid) / 1e6))
    early = next(megabytes for after, megabytes in looks if after >= requests / 10)
    what = f"resident memory after {sent:,} requests from {ADDRESSES:,} addresses"
    findings.targets += [
        Target(what, MOST_MEMORY, looks[-1][1], " MB"),
        Target(f"{what}, in terms of after a tenth of them", MOST_GROWTH, looks[-1][1] / early),
    ]


def _seconds_to_ready(upstream: Server, valkey: ValkeyServer, folder: Path) -> float:
    port, ops_port = free_ports(2)
    (folder / "gateway.yaml").write_text(yaml.safe_dump(generous_config()), encoding="utf-8")
    ports = {"GATEWAY_PORT": str(port), "GATEWAY_OPS_PORT": str(ops_port)}
    environ = {**variables(upstream), "GATEWAY_REDIS_URL": valkey.url, **ports}
    began = time.monotonic()
    command = [sys.executable, "-m", "gateway", "serve"]
    process = subprocess.Popen(command, env=clean_environ(**environ), cwd=folder, stdout=subprocess.DEVNULL)
    try:
        until(partial(_is_ready, port), "the gateway is ready", every=0.005)
        return time.monotonic() - began
    finally:
        process.terminate()
        process.terminate()
        process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
