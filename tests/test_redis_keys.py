"""Every key in Redis is one that docs/redis.md tells of, ends by itself, and names nobody's data."""

import base64
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.plugins.gateway import MARKER, ORDERS_KEY, WEBHOOK_SECRET, example_config, look_for_payments, quote, running
from tests.plugins.processes import until

PAGE = (Path(__file__).parents[1] / "docs" / "redis.md").read_text(encoding="utf-8")
LONGEST = 90 * 24 * 3600 * 1000
HOOK_SECRET = "whsec_" + base64.b64encode(f"{MARKER}-the-secret-of-the-books".encode()).decode()
SHAPES = {
    "<client>": "[a-z0-9-]+",
    "<sha256>": "[0-9a-f]{32}",
    "<endpoint>": "[0-9a-f]{16}",
    "<session>": "cs_[0-9a-f]{32}",
    "<address>": "([0-9a-f.:]+(/64)?|unknown)",
}


def documented() -> list[re.Pattern[str]]:
    """Read the first column of the table; `…` stands for what the key before it begins with."""
    patterns, stem = [], ""
    for row in re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            if not name.startswith("…"):
                stem = name.rpartition(":")[0]
            pattern = re.escape(name.replace("…", stem))
            for placeholder, shape in SHAPES.items():
                pattern = pattern.replace(re.escape(placeholder), shape)
            patterns.append(re.compile(pattern))
    return patterns


def pay(payment_url):
    httpx.post(payment_url, data={"action": "pay"}).raise_for_status()


def see(outside, session):
    with outside.client(session["client_token"]) as browser:
        return browser.get(f"/checkout-sessions/{session['id']}").json()


@contextmanager
def watching(outside, session):
    path = f"{outside.url}/checkout-sessions/{session['id']}/events?token={session['client_token']}"
    with httpx.Client() as http, http.stream("GET", path) as answer:
        assert answer.status_code == 200
        yield


def test_every_key_is_documented_ends_by_itself_and_holds_no_secret(settings_of, simulator, valkey_factory):
    server = valkey_factory()
    config = example_config()
    del config["cache"]
    unheard = {"id": "books", "url": "http://127.0.0.1:9/hook", "secret": HOOK_SECRET}
    config["subscribers"] = [unheard]
    with running(settings_of(config, redis_url=server.url)) as outside, ExitStack() as stack:
        outside.http.get("/balances")
        outside.http.get("/exchange-rates/btc?currency=usd")
        order = {"price": "1.00", "currency": "usd", "order_id": "order-of-somebody"}
        headers = {"Idempotency-Key": "key-of-somebody"}
        assert outside.http.post("/checkout-sessions", json=order, headers=headers).status_code == 201
        shown = outside.browser.post("/checkout-sessions", json=quote(order_id="browser-order-of-somebody")).json()
        pay(shown["payment_url"])
        look_for_payments(server)
        until(lambda: see(outside, shown)["status"] == "paid", "the payment was found")
        token = shown["client_token"]
        again = outside.browser.post("/checkout-sessions", json=quote(order_id="other-order-of-somebody")).json()
        stack.enter_context(watching(outside, again))
        simulator.scenario("slow", seconds=0.5)
        simulator.scenario("throttled-429", function="get-credit-balance")
        outside.http.get("/credit-balance")
        simulator.scenario("500-json", function="get-transaction")
        webhook = {"key": WEBHOOK_SECRET, "transaction": {"id": "31337", "status": "C"}}
        assert httpx.post(f"{outside.url}/webhooks/quantapay", json=webhook).status_code == 200
        with server.client() as redis:
            keys = {key.decode(): redis.pttl(key) for key in redis.scan_iter("*")}
            values = b"".join(redis.dump(key) for key in keys)

    patterns = documented()
    assert patterns
    kinds = set()
    for key, left in keys.items():
        assert 0 < left <= LONGEST, f"{key} does not end by itself"
        matching = [pattern.pattern for pattern in patterns if pattern.fullmatch(key)]
        assert len(matching) == 1, f"{key} is not in docs/redis.md"
        kinds.update(matching)
        assert "somebody" not in key
    assert len(kinds) >= 27, "the test does not make most of the keys any more"
    for secret in (MARKER, ORDERS_KEY, HOOK_SECRET, token):
        assert secret.encode() not in values
