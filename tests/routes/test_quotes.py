"""Browsers start payments that the shop's server priced, and nothing else (interface §3.5)."""

import hashlib
import hmac
import json
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.plugins.gateway import MARKET, MARKET_KEY, MARKET_SECRET, QUOTE_SECRET, SHOP_KEY, quote, running


def create(outside, body, **headers):
    return outside.browser.post("/checkout-sessions", json=body, headers=headers)


def codes(answer):
    return answer.status_code, answer.json()["code"]


def test_a_quote_makes_a_session_at_its_price(gateway, simulator):
    answer = create(gateway, quote("49.90", "USD", "Bestellung Nr. 1 – Ü"))
    assert answer.status_code == 201
    session = answer.json()
    assert set(session) == {
        "id", "status", "payment_url", "price", "currency", "order_id", "created_at", "transaction", "client_token",
    }  # fmt: skip
    assert (session["price"], session["currency"], session["status"]) == ("49.90", "usd", "open")
    assert answer.headers["location"] == f"/checkout-sessions/{session['id']}"
    [call] = simulator.calls()
    sent = dict(call["fields"])
    assert (sent["price"], sent["currency"], sent["order_id"]) == ("49.90", "usd", "Bestellung Nr. 1 – Ü")


def test_the_token_is_the_one_that_the_interface_says(gateway):
    session = create(gateway, quote()).json()
    import base64

    digest = hmac.new(QUOTE_SECRET.encode(), f"qpg-session-v1|{session['id']}".encode(), hashlib.sha256).digest()
    assert session["client_token"] == "cst_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


NOW = int(time.time())
GOOD = quote(at=NOW)
FAR = 100_000


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({**GOOD, "price": "0.01"}, "invalid-quote"),
        ({**GOOD, "price": "49.990"}, None),  # three decimals: not a price in dollars at all
        ({**GOOD, "price": "049.99"}, "invalid-quote"),
        ({**GOOD, "currency": "eur"}, "invalid-quote"),
        ({**GOOD, "currency": "USD"}, "invalid-quote"),
        ({**GOOD, "order_id": "ORD-2"}, "invalid-quote"),
        ({**GOOD, "order_id": "ORD-1 "}, "invalid-quote"),
        ({**GOOD, "timestamp": NOW + 1}, "invalid-quote"),
        (quote(at=NOW - FAR), "quote-expired"),
        (quote(at=NOW + FAR), "quote-expired"),
        ({**quote(at=NOW - FAR), "signature": "0" * 64}, "invalid-quote"),
        (quote(secret=MARKET_SECRET), "invalid-quote"),
        (quote(client="market"), "invalid-quote"),
        (quote(client="market", secret=MARKET_SECRET), "invalid-quote"),
        ({**GOOD, "signature": GOOD["signature"].upper()}, None),
        ({**GOOD, "signature": f" {GOOD['signature']}"}, None),
        ({**GOOD, "signature": f"{GOOD['signature']}\n"}, None),
        ({**GOOD, "signature": GOOD["signature"][:-1]}, None),
        ({**GOOD, "signature": ""}, None),
        ({**GOOD, "signature": None}, None),
        ({**GOOD, "timestamp": str(NOW)}, None),
        ({**GOOD, "timestamp": "١٧٧٥٨١١٦٠٠"}, None),
        ({**GOOD, "timestamp": float(NOW)}, None),
        ({**GOOD, "timestamp": True}, None),
        ({**GOOD, "timestamp": -1}, None),
        ({**GOOD, "timestamp": 10**30}, None),
        ({**GOOD, "metadata": {"a": "b"}}, None),
        ({**GOOD, "client_id": "orders"}, None),
        ({name: value for name, value in GOOD.items() if name != "signature"}, None),
        ({name: value for name, value in GOOD.items() if name != "timestamp"}, None),
        ({name: value for name, value in GOOD.items() if name != "order_id"}, None),
        ({"price": "49.99", "currency": "usd"}, None),
        (quote(order_id="a|b"), None),
        (quote(order_id="a\nb"), None),
        (quote(price="１.00"), None),
    ],
)
def test_anything_else_is_refused_and_costs_no_call(gateway, simulator, body, code):
    answer = create(gateway, body)
    assert codes(answer) == ((422, "validation-failed") if code is None else (403, code))
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert simulator.calls() == []


def test_the_edge_of_five_minutes_is_still_good(settings_of, simulator, valkey):
    from tests.plugins.gateway import ShiftedClock

    class Held(ShiftedClock):
        def time(self):
            return float(now)

    now = int(time.time())  # QuantaPay's time too, which must not be far off
    with running(settings_of(), clock=Held()) as outside:
        for number, (at, status) in enumerate([(-300, 201), (300, 201), (-301, 403), (301, 403)]):
            assert create(outside, quote(order_id=f"EDGE-{number}", at=now + at)).status_code == status


def test_order_ids_that_differ_in_unicode_form_are_two_orders(gateway):
    composed, decomposed = (unicodedata.normalize(form, "Café-1") for form in ("NFC", "NFD"))
    first = create(gateway, quote(order_id=composed))
    assert codes(create(gateway, {**quote(order_id=composed), "order_id": decomposed})) == (403, "invalid-quote")
    second = create(gateway, quote(order_id=decomposed))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert second.json()["order_id"] == decomposed


def test_a_reload_with_a_newer_quote_finds_the_session(gateway, simulator):
    now = int(time.time())
    first = create(gateway, quote(at=now - 60))
    for again in (quote(at=now - 60), quote(at=now), quote(currency="USD", at=now)):
        found = create(gateway, again)
        assert found.status_code == 200
        assert found.json() == first.json()
        assert found.headers["location"] == first.headers["location"]
    assert len(simulator.calls()) == 1
    assert gateway.metric("gateway_checkout_sessions_total", event="found") >= 3


def test_one_price_can_be_written_in_several_ways(gateway, simulator):
    answers = [create(gateway, quote(price)) for price in ("5", "5.0", "5.00", "05")]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 1


@pytest.mark.parametrize("other", [{"price": "50.00"}, {"currency": "eur"}, {"price": "49.9"}])
def test_an_order_has_no_second_price(gateway, simulator, other):
    assert create(gateway, quote()).status_code == 201
    assert codes(create(gateway, quote(**other))) == (409, "order-conflict")
    assert len(simulator.calls()) == 1


def test_an_order_is_its_first_clients(gateway):
    order = {"price": "49.99", "currency": "usd", "order_id": "ORD-1"}
    assert create(gateway, quote()).status_code == 201
    assert codes(gateway.http.post("/checkout-sessions", json=order)) == (409, "order-id-taken")
    with gateway.client(MARKET_KEY, Origin=MARKET) as market:
        answer = market.post("/checkout-sessions", json=quote(client="market", secret=MARKET_SECRET))
    assert codes(answer) == (409, "order-id-taken")


def test_fifty_requests_at_once_over_two_gateways_show_one_session(gateway, settings_of, simulator):
    simulator.scenario("slow", seconds=0.5, function="create-checkout-session")
    body = quote()
    lost = []

    def ask(outside):
        answer = create(outside, body)
        while answer.status_code == 503:  # a busy machine misses Redis's time
            if answer.json().get("outcome") == "unknown":
                lost.append(answer)
            answer = create(outside, body)
        return answer

    with running(settings_of(), seen=gateway.seen) as other, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: ask((gateway, other)[n % 2]), range(50)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(simulator.calls()) <= 1 + len(lost)


def test_a_failed_create_leaves_the_order_free(gateway, simulator):
    simulator.scenario("html-error", function="create-checkout-session")
    failed = create(gateway, quote())
    assert (failed.status_code, failed.json()["outcome"]) == (502, "unknown")
    simulator.reset()
    assert create(gateway, quote()).status_code == 201


def test_either_quote_secret_is_good_while_one_is_rotated(settings_of, simulator, valkey):
    from tests.plugins.gateway import example_config

    config = example_config()
    newer = "CANARY-quote-secret-that-comes-after-it"
    config["clients"][2]["quote_secret"] = [newer, QUOTE_SECRET]
    with running(settings_of(config)) as outside:
        old = create(outside, quote(order_id="OLD"))
        new = create(outside, quote(order_id="NEW", secret=newer))
        assert (old.status_code, new.status_code) == (201, 201)
        for session in (old.json(), new.json()):
            for secret in (newer, QUOTE_SECRET):
                text = f"qpg-session-v1|{session['id']}".encode()
                import base64

                digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
                token = "cst_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
                with outside.client(token) as browser:
                    assert browser.get(f"/checkout-sessions/{session['id']}").status_code == 200


def test_a_publishable_key_may_do_nothing_else(gateway):
    for path in (
        "/balances",
        "/credit-balance",
        "/transactions",
        "/transactions/1",
        "/checkout-sessions/cs_" + "0" * 32,
    ):
        assert codes(gateway.browser.get(path)) == (403, "insufficient-scope")
    assert codes(gateway.browser.post("/functions/get-balances", json={})) == (403, "insufficient-scope")
    assert codes(gateway.browser.post("/checkout-sessions", content=json.dumps(quote()))) == (
        415,
        "unsupported-media-type",
    )
    assert SHOP_KEY.startswith("qpk_")
