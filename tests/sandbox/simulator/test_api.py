"""`api.php` when it behaves: the order of its checks, its functions, its throttle."""

import hashlib
import hmac
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from gateway.sandbox.simulator.functions import signature_of

ORDER = {"price": "49.99", "currency": "usd", "order_id": "ORD-12345"}
VECTOR = "7ca38e2d5396c4e760173ab61835503eeaa7b16f73d3bcec80212c113e8d8c2d"
"""Contract §5: the signature of ORDER at the time the clock is held at."""


def refusal(code):
    return {"success": False, "error_code": code}


async def test_every_answer_is_json_that_says_it_is_html(client):
    for response in (await client.post("get-balances"), await client.post("no-such-function")):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=UTF-8"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "missing-function-name"),
        ({"api-key": "sim-key"}, "missing-function-name"),
        ({"function": ""}, "function-not-found"),
        ({"function": "nope"}, "function-not-found"),
        ({"function": "nope", "api-key": "wrong"}, "function-not-found"),
        ({"function[]": "get-balances", "api-key": "sim-key"}, "function-not-found"),
        ({"function": "get-balances"}, "api-key-not-found"),
        ({"function": "get-balances", "api-key": ""}, "api-key-not-found"),
        ({"function": "get-balances", "api-key": "0"}, "api-key-not-found"),
        ({"function": "get-balances", "api_key": "sim-key"}, "api-key-not-found"),
        ({"function": "get-balances", "api-key": "wrong"}, "invalid-api-key"),
        ({"function": "get-balances", "api-key": "sim-key "}, "invalid-api-key"),
        ({"function": "get-balances", "api-key[]": "sim-key"}, "invalid-api-key"),
        ({"function": "create-checkout-session", "api-key": "wrong"}, "invalid-api-key"),
    ],
)
async def test_checks_run_in_the_order_function_key_parameters(client, fields, code):
    answer = (await client.form(fields)).json()
    assert answer.items() >= refusal(code).items()
    assert answer["message"]


@pytest.mark.parametrize(
    ("function", "fields", "missing"),
    [
        ("create-checkout-session", {}, "price"),
        ("create-checkout-session", {"price": "1"}, "currency"),
        ("create-checkout-session", {"price": ""}, "currency"),
        ("get-exchange-rates", {}, "currency_code"),
        ("get-exchange-rates", {"currency_code": "usd"}, "cryptocurrency_code"),
        ("get-fiat-value", {}, "amount"),
        ("get-transaction", {}, "transaction_id"),
        ("get-cryptocurrency-codes", {}, "cryptocurrency_code"),
    ],
)
async def test_only_the_first_missing_parameter_is_named(client, function, fields, missing):
    answer = await client.call(function, **fields)
    assert answer == {**refusal("missing-argument"), "message": f"Missing argument: {missing}"}


async def test_a_get_or_a_json_body_has_no_function(client):
    fields = {"function": "get-balances", "api-key": "sim-key"}
    responses = [
        await client.http.get("/api.php", params=fields),
        await client.http.post("/api.php", json=fields),
        await client.http.post("/api.php", params=fields),
    ]
    for response in responses:
        assert response.json().items() >= refusal("missing-function-name").items()


async def test_a_later_field_overrides_an_earlier_one_however_php_lets_it(client):
    body = "function=get-balances&api-key=sim-key&+function=get-credit-balance&api-key%00x=sim-key"
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    response = await client.http.post("/api.php", content=body, headers=headers)
    assert response.json()["response"]["credit_currency"] == "USD"


async def test_balances_and_credit_have_the_documented_shapes(client):
    balances = await client.call("get-balances")
    assert balances == {
        "success": True,
        "response": {
            "btc": {"amount": "0.1", "fiat": "6485.02"},
            "eth": {"amount": "2.5", "fiat": "9250.00"},
            "usdt": {"amount": "1250.50", "fiat": "1250.50"},
        },
    }
    credit = await client.call("get-credit-balance")
    assert credit["response"] == {"credit_balance": 150.25, "credit_currency": "USD"}


@pytest.mark.parametrize(
    ("coin", "currency", "rate"),
    [
        ("btc", "USD", "64850.25"),
        ("BTC", "usd", "64850.25"),
        ("eth", "eur", "3404.00"),
        ("doge", "usd", "0.14870000"),
    ],
)
async def test_a_rate_is_a_bare_string_of_fiat_per_coin(client, coin, currency, rate):
    answer = await client.call("get-exchange-rates", cryptocurrency_code=coin, currency_code=currency)
    assert answer == {"success": True, "response": rate}


@pytest.mark.parametrize(("coin", "currency"), [("nope", "usd"), ("btc", "nope"), ("", "")])
async def test_an_unknown_pair_is_a_text_under_success_true(client, coin, currency):
    for function in ("get-exchange-rates", "get-fiat-value"):
        answer = await client.call(function, amount="1", cryptocurrency_code=coin, currency_code=currency)
        assert answer["success"] is True
        assert answer["response"].startswith("QuantaPay error [simulated]: no rate")


async def test_a_fiat_value_is_a_number_with_two_decimals(client):
    answer = await client.call("get-fiat-value", amount="0.5", cryptocurrency_code="btc", currency_code="usd")
    assert answer == {"success": True, "response": 32425.12}
    answer = await client.call("get-fiat-value", amount="1e3", cryptocurrency_code="btc", currency_code="usd")
    assert "the amount is not a number" in answer["response"]


async def test_a_function_without_a_handler_fails_with_neither_code_nor_message(client):
    answer = await client.call("get-cryptocurrency-codes", cryptocurrency_code="btc")
    assert answer == {"success": False, "response": "The function has no handler"}


async def test_a_session_has_an_id_and_an_address_on_the_pay_page(client):
    session = (await client.call("create-checkout-session", **ORDER))["response"]
    assert re.fullmatch(r"cs_[0-9a-f]{20}", session["session_id"])
    address = urlsplit(session["payment_url"])
    assert (address.scheme, address.netloc, address.path) == ("http", "sim.test", "/pay.php")
    assert parse_qs(address.query) == {
        "checkout_id": [f"cs-{session['session_id']}"],
        "price": ["49.99"],
        "currency": ["usd"],
        "external_reference": ["ORD-12345"],
    }


async def test_slashes_in_an_address_are_escaped_as_php_does(client):
    response = await client.post("create-checkout-session", **ORDER)
    assert b'"payment_url":"http:\\/\\/sim.test\\/pay.php?' in response.content


async def test_a_public_url_replaces_the_host_of_the_call(connect):
    client = connect(public_url="https://cloud.quantapay.app/")
    session = (await client.call("create-checkout-session", **ORDER))["response"]
    assert session["payment_url"].startswith("https://cloud.quantapay.app/pay.php?checkout_id=cs-cs_")


@pytest.mark.parametrize("price", ["0", "0.00", "-1", "1e3", "", "NaN", "９", "1234567890123", "1.123456789"])
async def test_a_bad_price_gets_a_made_up_code(client, price):
    answer = await client.call("create-checkout-session", price=price, currency="usd")
    assert answer["error_code"] == "simulated-invalid-price"


@pytest.mark.parametrize("currency", ["", "us", "u$d", "usd|eur", "toolongtobe"])
async def test_a_bad_currency_gets_a_made_up_code(client, currency):
    answer = await client.call("create-checkout-session", price="1", currency=currency)
    assert answer["error_code"] == "simulated-invalid-currency"


def test_the_signature_matches_the_contracts_test_vector():
    secret = SecretStr("your-webhook-secret-key")
    assert signature_of(secret=secret, **ORDER, timestamp="1700000000") == VECTOR


@pytest.mark.parametrize("drift", [-300, 0, 300])
async def test_a_right_signature_is_good_for_300_seconds_either_way(client, clock, drift):
    clock.advance(drift)
    answer = await client.call("create-checkout-session", **ORDER, timestamp="1700000000", signature=VECTOR)
    assert answer["success"] is True


@pytest.mark.parametrize("drift", [-301, 301])
async def test_after_that_the_request_has_expired(client, clock, drift):
    clock.advance(drift)
    answer = await client.call("create-checkout-session", **ORDER, timestamp="1700000000", signature=VECTOR)
    assert answer == {**refusal("simulated-expired"), "message": "Request expired"}


@pytest.mark.parametrize("timestamp", ["", "soon", "1700000000.0", "99999999999"])
async def test_a_timestamp_that_is_no_recent_integer_has_expired(client, timestamp):
    answer = await client.call("create-checkout-session", **ORDER, timestamp=timestamp, signature=VECTOR)
    assert answer["error_code"] == "simulated-expired"


@pytest.mark.parametrize(
    "change",
    [
        {"price": "49.990"},
        {"currency": "USD"},
        {"order_id": ""},
        {"timestamp": "1700000001"},
        {"signature": VECTOR.upper()},
        {"signature": ""},
        {"signature": "é"},
    ],
)
async def test_a_signature_over_anything_else_is_refused(client, change):
    signed = {**ORDER, "timestamp": "1700000000", "signature": VECTOR}
    answer = await client.call("create-checkout-session", **{**signed, **change})
    assert answer["error_code"] == "simulated-invalid-signature"


async def test_without_an_order_id_nothing_stands_between_the_bars(client):
    signature = hmac.new(b"your-webhook-secret-key", b"5|eur||1700000000", hashlib.sha256).hexdigest()
    fields = {"price": "5", "currency": "eur", "timestamp": "1700000000", "signature": signature}
    assert (await client.call("create-checkout-session", **fields))["success"] is True


async def test_the_hundred_and_first_call_in_a_minute_is_throttled_until_the_first_is_a_minute_old(client, clock):
    for _ in range(100):
        assert (await client.post("get-balances")).status_code == 200
        clock.advance(0.125)
    throttled = await client.post("get-balances")
    assert throttled.status_code == 429
    assert throttled.headers["retry-after"] == "7"
    assert throttled.headers["content-type"] == "text/html"
    clock.advance(47.5)
    assert (await client.post("get-balances")).status_code == 200
    assert (await client.post("get-balances")).status_code == 429


@pytest.mark.parametrize(("style", "status"), [("throttled-429", 429), ("throttled-503", 503), ("throttled-200", 200)])
async def test_the_throttled_answer_can_be_chosen(connect, style, status):
    client = connect(throttle_per_minute=0, throttle_answer=style)
    response = await client.post("get-balances")
    assert response.status_code == status
    assert b"Too " in response.content or b"Unavailable" in response.content


async def test_throttling_can_be_off(connect):
    client = connect(throttle_per_minute=None)
    assert {(await client.post("get-balances")).status_code for _ in range(120)} == {200}


@pytest.mark.parametrize("secrets", [{"api_key": ""}, {"api_key": "0"}, {"webhook_secret": ""}])
def test_a_secret_that_could_never_work_is_refused(options, secrets):
    with pytest.raises(ValueError, match=r"key|secret"):
        options(**{name: SecretStr(value) for name, value in secrets.items()})
