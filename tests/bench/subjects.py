"""What is driven: each kind of request, at whom, and what it is compared with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.bench.servers import KEY, LIMITED_KEY, GatewayServer
from tests.bench.webhook_intake import MESSAGES, webhook
from tests.bench.wrk import Requests

JSON = "application/json"
RATE = "/exchange-rates/btc?currency=usd"


def nothing(_gateway: GatewayServer) -> None:
    """Do nothing."""


def bearer(key: str, **more: str) -> dict[str, str]:
    """Return the headers of a request with a key."""
    return {"Authorization": f"Bearer {key}", **more}


def spend_limit(gateway: GatewayServer) -> None:
    """Ask until the limited client has had what it may have in an hour."""
    while httpx.get(gateway.url + RATE, headers=bearer(LIMITED_KEY)).status_code != 429:
        pass


def judge_all(gateway: GatewayServer) -> None:
    """Wait until every webhook that was taken in is judged: that work is theirs, too."""
    while gateway.store.hlen(MESSAGES):
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of request to one kind of server."""

    name: str
    title: str
    server: str
    """`gateway`, or the name of a peer."""
    requests: Requests
    peer: str | None = None
    """The subject whose cost is the measure of this one's."""
    prepare: Callable[[GatewayServer], None] = nothing
    """Before a drive."""
    finish: Callable[[GatewayServer], None] = nothing
    """After a drive; the processor time until it returns counts."""


CALL = Requests("POST", "/functions/get-network-fee", 200, {"Content-Type": JSON}, body='{"cryptocurrency": "btc"}')
FORM = Requests(
    "POST",
    "/api.php",
    200,
    {"Content-Type": "application/x-www-form-urlencoded"},
    body="cryptocurrency=btc&function=get-network-fee&api-key=key",
)
READ = Requests("GET", RATE, 200, bearer(KEY))
PASS_THROUGH = Requests(CALL.method, CALL.path, 200, bearer(KEY, **CALL.headers), CALL.body)
CREATE = Requests(
    "POST",
    "/checkout-sessions",
    201,
    bearer(KEY, **{"Content-Type": JSON, "Idempotency-Key": "order-<number>"}),
    body='{"price": "25.00", "currency": "usd", "order_id": "order-<number>"}',
)

SUBJECTS = (
    Subject("hello", "FastAPI, hello", "hello", Requests("GET", "/", 200)),
    Subject("cached-read", "cached read", "gateway", READ, peer="hello"),
    Subject("401", "401, wrong key", "gateway", Requests("GET", RATE, 401, bearer(KEY[::-1])), peer="hello"),
    Subject(
        "429",
        "429, limit spent",
        "gateway",
        Requests("GET", RATE, 429, bearer(LIMITED_KEY)),
        peer="hello",
        prepare=spend_limit,
    ),
    Subject("fastapi-httpx", "FastAPI + httpx, pass-through", "passthrough", CALL),
    Subject("pass-through", "pass-through", "gateway", PASS_THROUGH, peer="fastapi-httpx"),
    Subject("create", "create with an idempotency key", "gateway", CREATE, peer="fastapi-httpx"),
    Subject("nginx", "nginx, proxy", "nginx", FORM),
    Subject(
        "webhook",
        "webhook, confirmed and judged",
        "gateway",
        Requests("POST", "/webhooks/quantapay", 200, {"Content-Type": JSON}, body=webhook("<number>")),
        finish=judge_all,
    ),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}
