"""Balances, rates and transactions over real sockets: what callers get, and what QuantaPay was asked."""

import pytest


def fields(call):
    return [(name, value) for name, value in call["fields"] if name not in ("function", "api-key")]


def test_balances_are_exact_texts_sorted_by_code(gateway):
    answer = gateway.http.get("/balances")
    assert answer.status_code == 200
    body = answer.json()
    assert body["balances"] == [
        {"cryptocurrency": "btc", "amount": "0.1", "fiat_value": "6485.02"},
        {"cryptocurrency": "eth", "amount": "2.5", "fiat_value": "9250.00"},
        {"cryptocurrency": "usdt", "amount": "1250.50", "fiat_value": "1250.50"},
    ]
    assert body["currency"] is None
    assert body["retrieved_at"].endswith("Z")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("scenario", "currency"), [("nested-balances", "usd"), ("numbers-for-strings", None), ("php-notice-before", None)]
)
def test_balances_are_the_same_in_every_shape(gateway, simulator, scenario, currency):
    simulator.scenario(scenario)
    body = gateway.http.get("/balances").json()
    assert [row["cryptocurrency"] for row in body["balances"]] == ["btc", "eth", "usdt"]
    assert body["currency"] == currency


def test_no_wallets_are_no_balances(gateway, simulator):
    simulator.scenario("empty-map-as-list")
    assert gateway.http.get("/balances").json()["balances"] == []


def test_credits_are_a_text_in_lower_case_currency(gateway):
    body = gateway.http.get("/credit-balance").json()
    assert (body["amount"], body["currency"]) == ("150.25", "usd")


def test_a_rate_is_fiat_for_one_coin_and_codes_come_back_in_lower_case(gateway, simulator):
    body = gateway.http.get("/exchange-rates/BTC", params={"currency": "USD"}).json()
    assert {**body, "retrieved_at": None} == {
        "cryptocurrency": "btc",
        "currency": "usd",
        "rate": "64850.25",
        "retrieved_at": None,
    }
    assert fields(simulator.calls()[0]) == [("currency_code", "usd"), ("cryptocurrency_code", "btc")]


def test_a_fiat_value_is_rounded_half_up_to_the_currencys_decimals(gateway):
    body = gateway.http.get("/fiat-values/btc", params={"amount": "0.5", "currency": "usd"}).json()
    assert (body["amount"], body["rate"], body["fiat_value"]) == ("0.5", "64850.25", "32425.13")
    yen = gateway.http.get("/fiat-values/btc", params={"amount": "0.5", "currency": "jpy"}).json()
    assert "." not in yen["fiat_value"]


def test_cryptocurrencies_are_the_codes_of_the_balances_without_amounts(gateway):
    body = gateway.http.get("/cryptocurrencies").json()
    assert body["cryptocurrencies"] == ["btc", "eth", "usdt"]
    assert set(body) == {"cryptocurrencies", "retrieved_at"}


@pytest.mark.parametrize("scenario", ["zero-rate"])
def test_a_rate_of_zero_is_an_error_of_upstream(gateway, simulator, scenario):
    simulator.scenario(scenario)
    answer = gateway.http.get("/exchange-rates/btc", params={"currency": "usd"})
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream-invalid-response")


def test_a_pair_that_quantapay_does_not_know_is_rejected(gateway):
    answer = gateway.http.get("/exchange-rates/nope", params={"currency": "usd"})
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream-rejected")


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/exchange-rates/btc", "currency"),
        ("/exchange-rates/btc?currency=", "currency"),
        ("/exchange-rates/btc?currency=us$", "currency"),
        ("/exchange-rates/btc?currency=usd%0d%0aX-Evil:1", "currency"),
        ("/exchange-rates/btc?currency=usd%26function=refund", "currency"),
        ("/exchange-rates/btc?currency=usd&function=refund", "function"),
        ("/exchange-rates/btc?currency=usd&currency=eur", "currency"),
        ("/exchange-rates/btc?currency=%EF%BC%B5SD", "currency"),
        ("/exchange-rates/b?currency=usd", "cryptocurrency"),
        ("/exchange-rates/btc%00?currency=usd", "cryptocurrency"),
        ("/exchange-rates/aaaaaaaaaaaaaaaaaaaaa?currency=usd", "cryptocurrency"),
        ("/fiat-values/btc?currency=usd", "amount"),
        ("/fiat-values/btc?currency=usd&amount=-1", "amount"),
        ("/fiat-values/btc?currency=usd&amount=1e3", "amount"),
        ("/fiat-values/btc?currency=usd&amount=NaN", "amount"),
        ("/fiat-values/btc?currency=usd&amount=%EF%BC%99", "amount"),
        ("/fiat-values/btc?currency=usd&amount=1.", "amount"),
        ("/fiat-values/btc?currency=usd&amount=1111111111111111111", "amount"),
        ("/balances?x=1", "x"),
        ("/credit-balance?currency=usd", "currency"),
        ("/cryptocurrencies?" + "&".join(f"a{number}=1" for number in range(2000)), "a0"),
        ("/transactions/42?page=1", "page"),
        ("/transactions?page=1&page=1", "page"),
        ("/transactions?status=P", "status"),
        ("/transactions?page=-1", "page"),
        ("/transactions?page=1e3", "page"),
        ("/transactions?page=9999999999", "page"),
        ("/transactions?search=", "search"),
        ("/transactions?search=a%00b", "search"),
        ("/transactions?created_from=yesterday", "created_from"),
        ("/transactions?created_from=2026-04-10", "created_from"),
        ("/transactions?created_from=2026-04-10T09:00:00", "created_from"),
        ("/transactions?created_from=1700000000", "created_from"),
        ("/transactions?created_to=0001-01-01T00:00:00%2B14:00", "created_to"),
        ("/transactions?created_to=9999-12-31T23:59:59Z", "created_to"),
        ("/transactions?created_to=2026-13-10T09:00:00Z", "created_to"),
        ("/transactions?pagination=-1", "pagination"),
        ("/transactions/abc", "id"),
        ("/transactions/-1", "id"),
        ("/transactions/1%20OR%201=1", "id"),
        ("/transactions/%D9%A1", "id"),
    ],
)
def test_bad_input_is_refused_by_name_and_costs_no_call(gateway, simulator, path, parameter):
    answer = gateway.http.get(path)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "validation-failed"
    assert [fault["parameter"] for fault in answer.json()["errors"]] == [parameter]
    assert simulator.calls() == []


def pay(gateway, simulator, order_id="ORD-1"):
    order = {"price": "49.99", "currency": "usd", "order_id": order_id}
    session = gateway.http.post("/checkout-sessions", json=order).json()
    gateway.http.post(session["payment_url"], data={"action": "pay"}, headers={"Authorization": ""})
    return session


def test_a_paid_order_shows_as_a_completed_transaction(gateway, simulator):
    pay(gateway, simulator)
    body = gateway.http.get("/transactions", params={"search": "ORD-1"}).json()
    assert (body["page"], body["has_more"]) == (0, False)
    [row] = body["transactions"]
    assert (row["status"], row["raw_status"], row["order_id"]) == ("completed", "C", "ORD-1")
    assert (row["fiat_amount"], row["currency"]) == ("49.99000000", "usd")
    assert row["created_at"].endswith("Z")
    assert row["title"] is None
    assert set(row) == {
        "id", "quantapay_reference", "title", "description", "from_address", "to_address", "hash", "amount",
        "cryptocurrency", "fiat_amount", "currency", "order_id", "status", "raw_status", "created_at",
    }  # fmt: skip
    assert gateway.http.get(f"/transactions/{row['id']}").json() == row


@pytest.mark.parametrize("scenario", [None, "success-with-empty-string", "success-with-false", "success-with-null"])
def test_an_unknown_transaction_is_not_found(gateway, simulator, scenario):
    if scenario:
        simulator.scenario(scenario)
    answer = gateway.http.get("/transactions/999")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_filters_travel_under_quantapays_names_with_times_in_utc(gateway, simulator):
    gateway.http.get(
        "/transactions",
        params={
            "status": "completed",
            "cryptocurrency": "BTC",
            "search": "ÄÖ & Co",
            "created_from": "2026-04-10T11:00:00.5+02:00",
            "page": "2",
        },
    ).raise_for_status()
    assert fields(simulator.calls()[0]) == [
        ("pagination", "2"),
        ("search", "ÄÖ & Co"),
        ("status", "C"),
        ("cryptocurrency", "btc"),
        ("date_range[0]", "2026-04-10 09:00:01"),
        ("date_range[1]", "9999-12-31 23:59:59"),
    ]


def test_a_full_page_has_more(gateway, simulator, monkeypatch):
    for _ in range(100):
        simulator._http.post("/transactions", json={}).raise_for_status()
    body = gateway.http.get("/transactions").json()
    assert len(body["transactions"]) == 100
    assert body["has_more"] is True
    assert gateway.http.get("/transactions", params={"page": 1}).json()["has_more"] is False
