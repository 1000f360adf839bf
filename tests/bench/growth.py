"""How the cost of a request goes as there are more clients, more cached answers, more sessions."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx

from tests.bench.field import Field
from tests.bench.findings import Findings, Growth, Step, Target
from tests.bench.measure import Figures, Timed, alternate, measure, ratio
from tests.bench.process import serve
from tests.bench.servers import (
    KEY,
    NUMBERED_KEY,
    GatewayServer,
    generous_config,
    numbered_clients,
    numbered_key,
    running_gateway,
)
from tests.bench.subjects import CREATE, RATE, bearer
from tests.bench.wrk import Requests

FLAT = 1.1
"""What a request may cost with the most of something, in terms of the least."""
CLIENTS = (10, 100, 1_000, 10_000)
PAIRS = (10, 100, 1_000, 10_000)
SESSIONS = (100, 1_000, 10_000, 100_000)
SAMPLE = 100
"""Sessions of a gateway that are read in turn; they are part of all."""
MADE_ANEW = 10_000
"""Up to so many sessions are made anew before each drive that creates more; beyond, what it adds matters little."""
FILLING_SECONDS = 5.0
"""Of one drive of many."""
FILLING_CONNECTIONS = 8


def of_clients(field: Field, findings: Findings, most: int) -> None:
    """Configure more and more clients; read with the keys of some of them, and with the keys of all."""
    sizes = _up_to(CLIENTS, most)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        configs = {size: {**generous_config(), "clients": numbered_clients(size)} for size in sizes}
        gateways = {size: stack.enter_context(running_gateway(field.upstream, config=configs[size])) for size in sizes}

        def read_by_some(_stack: ExitStack, size: int) -> Timed:
            lines = folder / f"keys-{size}"
            lines.write_text("\n".join(numbered_key(number) for number in range(0, size, size // CLIENTS[0])))
            requests = Requests("GET", RATE, 200, bearer("<line>"), among=CLIENTS[0], lines=lines)
            return partial(measure, gateways[size], requests, connections=field.pace.connections)

        def read_by_all(_stack: ExitStack, size: int) -> Timed:
            requests = Requests("GET", RATE, 200, bearer(NUMBERED_KEY), among=size)
            send(gateways[size], requests, size)
            return partial(measure, gateways[size], requests, connections=field.pace.connections)

        some = f"cached read, keys of {CLIENTS[0]} clients in turn"
        _grow(field, findings, "clients", some, "clients configured", sizes, read_by_some)
        everyone = "cached read, keys of all clients in turn"
        # No target: what is meant to be flat is the cost by clients that there are. Of those that come, each has fewer
        # requests the more they are, and so fewer permits in advance.
        _grow(field, findings, "clients-in-turn", everyone, "clients", sizes, read_by_all, is_target=False)


def of_cached_pairs(field: Field, findings: Findings, most: int) -> None:
    """Have more and more rates in the cache, and read all of them."""

    def start(stack: ExitStack, size: int) -> Timed:
        gateway = stack.enter_context(running_gateway(field.upstream))
        requests = Requests("GET", "/exchange-rates/c<number>?currency=usd", 200, bearer(KEY), among=size)
        _send_all(gateway, requests, size)
        return partial(measure, gateway, requests, connections=field.pace.connections)

    _grow(field, findings, "pairs", "cached read, all rates in turn", "rates in the cache", _up_to(PAIRS, most), start)


def of_sessions(field: Field, findings: Findings, most: int) -> None:
    """Keep more and more open sessions; read some of them, and create new ones."""
    sizes = _up_to(SESSIONS, most)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = {size: stack.enter_context(running_gateway(field.upstream)) for size in sizes}
        for size, gateway in gateways.items():
            send(gateway, CREATE, size - SAMPLE)

        def read(_stack: ExitStack, size: int) -> Timed:
            lines = folder / f"sessions-{size}"
            lines.write_text("\n".join(_create_some(gateways[size])), encoding="utf-8")
            requests = Requests("GET", "/checkout-sessions/<line>", 200, bearer(KEY), among=SAMPLE, lines=lines)
            return partial(measure, gateways[size], requests, connections=field.pace.connections)

        def create(_stack: ExitStack, size: int) -> Timed:
            return partial(_create_more, gateways[size], size, connections=field.pace.connections)

        what = "open sessions kept"
        _grow(field, findings, "session-reads", "read of a session", what, sizes, read)
        _grow(field, findings, "creates", "create with an idempotency key", what, sizes, create)


def send(gateway: GatewayServer, requests: Requests, count: int) -> None:
    """Drive until at least so many were sent."""
    while count > 0:
        seconds = FILLING_SECONDS if count > 1_000 else 1
        count -= serve(gateway, requests, seconds=seconds, connections=FILLING_CONNECTIONS)


def _send_all(gateway: GatewayServer, requests: Requests, count: int) -> None:
    """Drive until one drive was long enough for all of them in turn."""
    seconds = FILLING_SECONDS
    while serve(gateway, requests, seconds=seconds, connections=FILLING_CONNECTIONS) < count:
        seconds *= 2


def _grow(
    field: Field,
    findings: Findings,
    name: str,
    title: str,
    what_grows: str,
    sizes: Sequence[int],
    start: Callable[[ExitStack, int], Timed],
    *,
    is_target: bool = True,
) -> None:
    """Drive each size in turn with the others."""
    with ExitStack() as stack:
        drives = {str(size): start(stack, size) for size in sizes}
        found = alternate(drives, rounds=field.pace.rounds, seconds=field.pace.seconds)
    growth = Growth(name, title, what_grows, [_step(size, found, str(sizes[0])) for size in sizes])
    findings.growths.append(growth)
    what = f"{title}: up to {sizes[-1]:,} {what_grows}, in terms of {sizes[0]}"
    if is_target:
        findings.targets.append(Target(what, FLAT, growth.worst))
    else:
        findings.others.append((what, f"{growth.worst:.2f}"))


def _step(size: int, found: Mapping[str, list[Figures]], smallest: str) -> Step:
    rounds = found[str(size)]
    return Step(size, Figures.median_of(rounds), ratio(rounds, found[smallest]))


def _create_some(gateway: GatewayServer) -> list[str]:
    """Create sessions to read; return their ids."""
    with httpx.Client(base_url=gateway.url, headers=bearer(KEY), timeout=20) as http:
        orders = ({"price": "25.00", "currency": "usd", "order_id": f"read-{number}"} for number in range(SAMPLE))
        return [http.post("/checkout-sessions", json=order).raise_for_status().json()["id"] for order in orders]


def _create_more(gateway: GatewayServer, size: int, *, seconds: float, connections: int) -> Figures:
    if size <= MADE_ANEW:
        gateway.store.flushall()
        send(gateway, CREATE, size)
    return measure(gateway, CREATE, seconds=seconds, connections=connections)


def _up_to(sizes: Sequence[int], most: int) -> list[int]:
    return [size for size in sizes if size <= most]
