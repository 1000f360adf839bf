"""The shop of the sandbox is told of payments, and believes only what is signed and asks for its own price."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr
from standardwebhooks import Webhook

from gateway.clock import SystemClock
from gateway.sandbox.storefront import HOOK, StorefrontOptions, storefront_server
from gateway.server import bind

SECRET = "whsec_c2hvcC1zZWNyZXQtb2YtdGhlLXNhbmRib3gtMzI="
OTHER = "whsec_b3RoZXItc2VjcmV0LW9mLXRoZS1zYW5kYm94LTMy"


def options(hook_secret=SECRET):
    return StorefrontOptions(
        gateway="http://127.0.0.1:8080",
        payment_page="http://127.0.0.1:8090/pay.php",
        client_id="storefront",
        publishable_key="qpk_" + "shop".ljust(43, "0"),
        quote_secret=SecretStr("quote-secret-of-the-shop-that-nobody-else-has"),
        hook_secret=None if hook_secret is None else SecretStr(hook_secret),
    )


@pytest.fixture(scope="module")
def start():
    with start_blocking_portal("asyncio") as portal:
        running = []

        def run(shop):
            sock = bind("127.0.0.1", 0)
            server = portal.wrap_async_context_manager(storefront_server(shop, sock, SystemClock()))
            server.__enter__()
            running.append((server, httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}")))
            return running[-1][1]

        yield run
        for server, client in running:
            client.close()
            server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def http(start):
    return start(options())


@pytest.fixture
def order_id(http):
    return http.post("/quote").json()["order_id"]


def event(order_id, status="paid", *, price="49.99", currency="usd", session=True):
    asked = {"id": "cs_1", "status": status, "price": price, "currency": currency, "order_id": order_id}
    data = {"transaction": {"id": "1", "order_id": order_id}, "checkout_session": asked if session else None}
    return {"type": "payment.completed", "timestamp": "2026-04-10T09:00:00Z", "data": {**data, "confirmed": True}}


def deliver(http, told, *, secret=SECRET, off=timedelta(0), **headers):
    body, sent_at = json.dumps(told), datetime.now(UTC) + off
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", sent_at, body),
    }
    return http.post(HOOK, content=body, headers={**signed, **headers}).status_code


def status(http, order_id):
    [found] = [order["status"] for order in http.get("/orders").json()["orders"] if order["id"] == order_id]
    return found


def test_an_order_is_open_until_the_shop_is_told_that_it_is_paid(http, order_id):
    assert status(http, order_id) == "open"
    assert deliver(http, event(order_id)) == 204
    assert status(http, order_id) == "paid"


@pytest.mark.parametrize("becomes", ["open", "underpaid", "needs_review", "refunded"])
def test_an_order_is_what_its_session_is(http, order_id, becomes):
    assert deliver(http, event(order_id, becomes)) == 204
    assert status(http, order_id) == becomes


@pytest.mark.parametrize("asked", [{"price": "0.01"}, {"currency": "eur"}, {"price": "49.990"}])
def test_a_session_that_asked_for_another_price_does_not_pay_an_order(http, order_id, asked):
    assert deliver(http, event(order_id, **asked)) == 204
    assert status(http, order_id) == "needs_review"


def test_an_order_moves_only_forward_however_events_arrive(http, order_id):
    for said, becomes in (("paid", "paid"), ("paid", "paid"), ("underpaid", "paid"), ("needs_review", "paid"),
                          ("refunded", "refunded"), ("paid", "refunded")):  # fmt: skip
        assert deliver(http, event(order_id, said)) == 204
        assert status(http, order_id) == becomes


@pytest.mark.parametrize("told", [event("ORD-2"), event("ORD-2", session=False)])
def test_what_is_no_order_of_the_shop_is_taken_and_changes_nothing(http, told):
    before = http.get("/orders").json()
    assert deliver(http, told) == 204
    assert http.get("/orders").json() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": OTHER},
        {"off": timedelta(minutes=-6)},
        {"off": timedelta(minutes=6)},
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": "nan"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,?"},
        {"webhook-signature": "v1,a,b"},
    ],
)
def test_what_is_not_signed_as_it_should_be_is_refused(http, order_id, wrong):
    assert deliver(http, event(order_id), **wrong) == 401
    assert status(http, order_id) == "open"


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff"])
def test_without_headers_nothing_is_taken(http, body):
    assert http.post(HOOK, content=body).status_code == 401


def test_a_shop_without_a_secret_is_told_of_nothing(start):
    untold = start(options(hook_secret=None))
    order_id = untold.post("/quote").json()["order_id"]
    assert deliver(untold, event(order_id)) == 401
    assert status(untold, order_id) == "open"


def test_the_secret_is_shown_nowhere(http, order_id):
    seen = [http.get(path) for path in ("/", "/settings.js", "/orders")]
    assert not any(SECRET in f"{answer.headers} {answer.text}" for answer in seen)
    assert SECRET not in repr(options())
