"""Who may see a checkout session, and how much of it (interface §3.5)."""

import re

import httpx
import pytest

from gateway.store.client import DEADLINE
from tests.plugins.gateway import (
    MARKET,
    MARKET_KEY,
    MARKET_SECRET,
    ORDERS_KEY,
    READER_KEY,
    SHOP,
    SHOP_KEY,
    example_config,
    look_for_payments,
    quote,
    running,
)
from tests.plugins.processes import until

ORDER = {"price": "49.99", "currency": "usd", "order_id": "ORD-1", "metadata": {"cart": "7"}}
UNKNOWN = "cs_" + "0" * 32


def pay(session, action="pay"):
    httpx.post(session["payment_url"], data={"action": action}).raise_for_status()


def see(outside, session_id, key, **headers):
    with outside.client(key, **headers) as client:
        return client.get(f"/checkout-sessions/{session_id}")


def problem(answer):
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def test_a_service_sees_its_session_whole(gateway):
    created = gateway.http.post("/checkout-sessions", json=ORDER)
    answer = gateway.http.get(created.headers["location"])
    assert answer.status_code == 200
    assert answer.json() == created.json()
    assert answer.headers["cache-control"] == "no-store"


def test_a_browser_sees_it_without_metadata_by_its_token(gateway):
    created = gateway.browser.post("/checkout-sessions", json=quote()).json()
    answer = see(gateway, created["id"], created.pop("client_token"), Origin=SHOP)
    assert answer.status_code == 200
    assert answer.json() == created
    assert "metadata" not in answer.json()
    assert answer.headers["access-control-allow-origin"] == SHOP


def test_a_tokens_session_is_for_its_own_shops_pages(gateway):
    created = gateway.browser.post("/checkout-sessions", json=quote()).json()
    answer = see(gateway, created["id"], created["client_token"], Origin=MARKET)
    assert "access-control-allow-origin" not in answer.headers


def test_unknown_foreign_and_wrong_are_the_same_404(gateway):
    mine = gateway.http.post("/checkout-sessions", json=ORDER).json()
    shops = [gateway.browser.post("/checkout-sessions", json=quote(order_id=f"ORD-{n}")).json() for n in (2, 3)]
    with gateway.client(MARKET_KEY, Origin=MARKET) as market:
        body = quote(order_id="ORD-4", client="market", secret=MARKET_SECRET)
        markets = market.post("/checkout-sessions", json=body).json()
    wrong = [
        see(gateway, UNKNOWN, ORDERS_KEY),
        see(gateway, shops[0]["id"], ORDERS_KEY),
        see(gateway, shops[0]["id"].upper(), ORDERS_KEY),
        see(gateway, "x" * 5000, ORDERS_KEY),
        see(gateway, "cs_" + "０" * 32, ORDERS_KEY),
        see(gateway, UNKNOWN, shops[0]["client_token"]),
        see(gateway, shops[1]["id"], shops[0]["client_token"]),
        see(gateway, mine["id"], shops[0]["client_token"]),
        see(gateway, shops[0]["id"], markets["client_token"]),
        see(gateway, shops[0]["id"], "cst_" + "A" * 43),
    ]
    assert {answer.status_code for answer in wrong} == {404}
    assert all(problem(answer) == problem(wrong[0]) for answer in wrong)


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 401, "unauthenticated"),
        ("cst_short", 401, "unauthenticated"),
        ("qsk_" + "x" * 43, 401, "unauthenticated"),
        (READER_KEY, 403, "insufficient-scope"),
        (SHOP_KEY, 403, "insufficient-scope"),
    ],
)
def test_a_key_that_may_not_look_is_told_so(gateway, valkey, key, status, code):
    for path in (f"/checkout-sessions/{UNKNOWN}", f"/checkout-sessions/{UNKNOWN}/events"):
        with gateway.client(key) as client:
            answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_token_in_the_address_opens_events_only(gateway):
    created = gateway.browser.post("/checkout-sessions", json=quote()).json()
    with gateway.client(None) as anybody:
        answer = anybody.get(f"/checkout-sessions/{created['id']}?token={created['client_token']}")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")


def test_a_payment_moves_the_session_and_shows_no_address_to_the_browser(gateway, valkey):
    """Reconciliation finds it: no webhook came."""
    service = gateway.http.post("/checkout-sessions", json=ORDER).json()
    shop = gateway.browser.post("/checkout-sessions", json=quote(order_id="ORD-2")).json()
    pay(service)
    pay(shop)
    look_for_payments(valkey)
    until(lambda: gateway.http.get(f"/checkout-sessions/{service['id']}").json()["status"] == "paid", "it is paid")
    whole = gateway.http.get(f"/checkout-sessions/{service['id']}").json()
    assert whole["transaction"]["order_id"] == "ORD-1"
    assert whole["transaction"]["to_address"]
    seen = see(gateway, shop["id"], shop["client_token"]).json()
    assert seen["status"] == "paid"
    assert set(seen["transaction"]) == {"id", "hash", "status", "amount", "cryptocurrency"}
    assert re.fullmatch("0x[0-9a-f]{64}", seen["transaction"]["hash"])
    again = gateway.browser.post("/checkout-sessions", json=quote(order_id="ORD-2"))
    assert (again.status_code, again.json()["code"]) == (409, "order-already-paid")
    other_price = gateway.browser.post("/checkout-sessions", json=quote("1.00", order_id="ORD-2"))
    assert other_price.json()["code"] == "order-already-paid"


@pytest.mark.parametrize(
    ("edit", "status"),
    [({"price": "0.01"}, "needs_review"), ({"currency": "eur"}, "needs_review"), ({}, "underpaid")],
    ids=["another price", "another currency", "too little"],
)
def test_a_page_whose_address_was_edited_is_not_paid(gateway, valkey, edit, status):
    session = gateway.http.post("/checkout-sessions", json=ORDER).json()
    edited = httpx.URL(session["payment_url"]).copy_merge_params(edit)
    httpx.post(edited, data={"action": "pay" if edit else "underpay"}).raise_for_status()
    look_for_payments(valkey)
    until(lambda: gateway.http.get(f"/checkout-sessions/{session['id']}").json()["status"] == status, status)


def test_a_payment_with_an_edited_reference_pays_nobody_elses_order(gateway, valkey):
    cheap = gateway.http.post("/checkout-sessions", json={**ORDER, "price": "1.00", "order_id": "CHEAP"}).json()
    dear = gateway.http.post("/checkout-sessions", json={**ORDER, "order_id": "DEAR"}).json()
    edited = httpx.URL(cheap["payment_url"]).copy_merge_params({"external_reference": "DEAR"})
    httpx.post(edited, data={"action": "pay"}).raise_for_status()
    look_for_payments(valkey)
    until(lambda: gateway.http.get(f"/checkout-sessions/{dear['id']}").json()["status"] == "needs_review", "review")
    assert gateway.http.get(f"/checkout-sessions/{cheap['id']}").json()["status"] == "open"


def test_without_redis_it_is_a_503(settings_of, simulator, valkey_factory):
    server = valkey_factory()
    with running(settings_of(example_config(), redis_url=server.url), redis_deadline=DEADLINE) as outside:
        session = outside.http.post("/checkout-sessions", json=ORDER).json()
        server.kill()
        answer = outside.http.get(f"/checkout-sessions/{session['id']}")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage-unavailable")
        server.restart()
