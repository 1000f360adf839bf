"""Misbehaviour on demand, and the control API that turns it on."""

import gzip
import json

import pytest

from gateway.sandbox.simulator.scenarios import SCENARIOS

NEEDS_A_SOCKET = {"hang", "cut-off", "close", "reset"}
ORDER = {"price": "49.99", "currency": "usd"}
MEBIBYTE = 1024 * 1024
FORM = {"content-type": "application/x-www-form-urlencoded"}


def refusal(code, message):
    return {"success": False, "error_code": code, "message": message}


async def answer_under(client, scenario, function="get-balances", **fields):
    await client.turn_on(scenario)
    return await client.post(function, **fields)


@pytest.mark.parametrize("scenario", sorted(SCENARIOS.keys() - NEEDS_A_SOCKET))
@pytest.mark.parametrize("function", ["get-balances", "get-exchange-rates", "create-checkout-session", "no-such"])
async def test_every_scenario_answers_whatever_is_called_and_honesty_returns(client, scenario, function):
    honest = await client.post(function)
    await client.turn_on(scenario, times=1)
    assert (await client.post(function)).status_code
    again = await client.post(function)
    assert (again.status_code, again.content) == (honest.status_code, honest.content)


@pytest.mark.parametrize(
    ("scenario", "status", "content"),
    [
        ("html-error", 500, b"<h1>Internal Server Error</h1>"),
        ("html-200", 200, b"<h1>Maintenance</h1>"),
        ("challenge-403", 403, b"Just a moment"),
        ("empty", 200, b""),
        ("empty-500", 500, b""),
        ("500-json", 500, b'"error_code":"simulated-failure"'),
        ("throttled-429", 429, b"Too Many Requests"),
        ("throttled-503", 503, b"Unavailable"),
        ("throttled-200", 200, b'"error_code":"simulated-throttled"'),
        ("garbage", 200, b"\x00\x01\x02"),
        ("latin-1", 200, b"Cl\xe9"),
        ("deep-nesting", 200, b"[" * 100_000),
        ("absurd-exponent", 200, b'"response":1e999999999}'),
        ("not-a-number", 200, b'"response":NaN}'),
        ("success-as-string", 200, b'"success":"true"'),
        ("success-as-number", 200, b'"success":1,'),
        ("numbers-for-strings", 200, b'"amount":0.1,'),
        ("exponent-numbers", 200, b'"fiat":6.48502E+3}'),
        ("no-envelope", 200, b'{"btc":{"amount"'),
    ],
)
async def test_an_answer_looks_as_its_name_says(client, scenario, status, content):
    response = await answer_under(client, scenario)
    assert response.status_code == status
    assert content in response.content


@pytest.mark.parametrize(
    ("scenario", "document"),
    [
        ("success-false-bare", {"success": False}),
        ("success-false-text-in-response", {"success": False, "response": "Not allowed"}),
        ("success-with-error-list", {"success": True, "response": ["error", "no explorer"]}),
        ("success-with-false", {"success": True, "response": False}),
        ("success-with-empty-string", {"success": True, "response": ""}),
        ("success-with-null", {"success": True, "response": None}),
        ("bare-string", {"success": True, "response": "unexpected"}),
        ("empty-map-as-list", {"success": True, "response": []}),
        ("zero-rate", {"success": True, "response": 0}),
        ("success-with-error-text", {"success": True, "response": "QuantaPay error [simulated]: it failed"}),
        (
            "success-with-error-object",
            {"success": True, "response": refusal("simulated-inner-failure", "It failed")},
        ),
        ("invalid-api-key", refusal("invalid-api-key", "Invalid API key")),
        ("function-missing", refusal("function-not-found", "Function not found")),
        ("missing-argument", refusal("missing-argument", "Missing argument: other")),
        ("bad-signature", refusal("simulated-invalid-signature", "Invalid signature")),
        ("unknown-slug", refusal("simulated-unknown-reason", "Not today")),
        ("hostile-slug", refusal('<script src="//a.invalid">\r\nX: y', "No")),
        ("expired", refusal("simulated-expired", "Request expired")),
    ],
)
async def test_an_envelope_looks_as_its_name_says(client, scenario, document):
    assert (await answer_under(client, scenario)).json() == document


async def test_throttling_may_say_when_to_come_back(client):
    assert "retry-after" in (await answer_under(client, "throttled-429")).headers
    assert "retry-after" not in (await answer_under(client, "throttled-503")).headers


@pytest.mark.parametrize(("scenario", "status"), [("redirect", 302), ("redirect-307", 307)])
async def test_a_redirect_leads_to_another_host(client, scenario, status):
    response = await answer_under(client, scenario)
    assert response.status_code == status
    assert response.headers["location"] == "https://elsewhere.invalid/login"


async def test_notices_and_marks_stand_around_the_honest_answer(client):
    honest = (await client.post("get-balances")).content
    before = (await answer_under(client, "php-notice-before")).content
    assert before.startswith(b"<br />")
    assert before.endswith(honest)
    after = (await answer_under(client, "php-notice-after")).content
    assert after.startswith(honest)
    assert b"Notice" in after
    assert (await answer_under(client, "bom")).content == b"\xef\xbb\xbf\r\n " + honest + b"\n"
    truncated = (await answer_under(client, "truncated-json")).content
    assert honest.startswith(truncated)
    assert len(truncated) == len(honest) // 2


async def test_a_forged_envelope_comes_before_the_real_one(client):
    content = (await answer_under(client, "duplicate-envelope", "create-checkout-session", **ORDER)).content
    assert 0 < content.index(b"forged.invalid") < content.index(b"sim.test")
    assert content.count(b'{"success":true') == 2


async def test_a_huge_answer_is_good_json_over_a_mebibyte(client):
    honest = (await client.post("get-balances")).json()
    huge = await answer_under(client, "huge")
    assert len(huge.content) > MEBIBYTE
    assert huge.json() == honest
    assert int(huge.headers["content-length"]) == len(huge.content)
    chunked = await answer_under(client, "huge-chunked")
    assert chunked.content == huge.content
    assert "content-length" not in chunked.headers


@pytest.mark.parametrize(("scenario", "over"), [("gzip", False), ("gzip-bomb", True)])
async def test_a_compressed_answer_is_the_honest_one(client, scenario, over):
    honest = (await client.post("get-balances")).json()
    await client.turn_on(scenario)
    request = {"function": "get-balances", "api-key": "sim-key"}
    async with client.http.stream("POST", "/api.php", data=request) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers["content-encoding"] == "gzip"
    assert len(raw) < 10_000
    assert json.loads(gzip.decompress(raw)) == honest
    assert (len(gzip.decompress(raw)) > MEBIBYTE) is over


async def test_balances_can_be_nested_as_in_boxcoin(client):
    nested = (await answer_under(client, "nested-balances")).json()["response"]
    assert nested["balances"]["btc"] == {"amount": 0.1, "fiat": 6485.02, "name": "BTC"}
    assert (nested["total"], nested["currency"], nested["token_images"]) == (16985.52, "USD", [])


async def test_a_rate_can_be_the_wrong_way_round(client):
    pair = {"currency_code": "usd", "cryptocurrency_code": "btc"}
    content = (await answer_under(client, "inverse-rate", "get-exchange-rates", **pair)).content
    assert content.startswith(b'{"success":true,"response":1.542')
    assert content.endswith(b"e-5}")


@pytest.mark.parametrize(
    ("scenario", "url"),
    [
        ("foreign-payment-url", "https://pay.invalid/pay.php?checkout_id=1"),
        ("http-payment-url", "http://cloud.quantapay.app/pay.php"),
        ("userinfo-payment-url", "https://cloud.quantapay.app@pay.invalid/pay.php"),
        ("no-payment-url", None),
    ],
)
async def test_a_session_can_lead_astray(client, scenario, url):
    session = (await answer_under(client, scenario, "create-checkout-session", **ORDER)).json()["response"]
    assert session.get("payment_url") == url
    assert session["session_id"]


async def test_a_scenario_that_reshapes_leaves_other_answers_alone(client):
    for scenario in ("nested-balances", "inverse-rate", "no-payment-url"):
        answer = (await answer_under(client, scenario, "get-transactions")).json()
        assert answer == {"success": True, "response": []}
    for scenario in ("numbers-for-strings", "exponent-numbers"):
        answer = (await answer_under(client, scenario, "nope")).json()
        assert answer["error_code"] == "function-not-found"
        assert "response" not in answer
    await client.http.post("/simulator/transactions", json={"billing": ["1.50", True]})
    row = (await answer_under(client, "numbers-for-strings", "get-transactions")).json()["response"][0]
    assert (row["id"], row["billing"], row["status"]) == (1, [1.5, True], "C")


async def test_a_refusal_does_no_work_but_a_spoilt_answer_hides_it(connect, clock):
    client = connect(pays_itself_after=0.0)
    for scenario in ("throttled-200", "expired", "html-error", "php-notice-before", "no-payment-url"):
        await answer_under(client, scenario, "create-checkout-session", **ORDER, order_id=scenario)
    await client.http.delete("/simulator/scenario")
    rows = (await client.call("get-transactions"))["response"]
    assert [row["external_reference"] for row in rows] == ["no-payment-url", "php-notice-before"]


async def test_a_slow_answer_is_the_honest_one_late(client, clock):
    honest = (await client.post("get-balances")).content
    assert (await answer_under(client, "slow")).content == honest
    assert clock.slept == [5.0]
    await client.turn_on("slow", seconds=0.25)
    await client.post("get-balances")
    assert clock.slept == [5.0, 0.25]


async def test_a_trickle_sends_byte_by_byte(client, clock):
    honest = (await client.post("get-balances")).content
    await client.turn_on("trickle", seconds=2)
    assert (await client.post("get-balances")).content == honest
    assert clock.slept == [2] * len(honest)


async def test_any_scenario_can_be_late(client, clock):
    await client.turn_on("html-error", seconds=1.5)
    assert (await client.post("get-balances")).status_code == 500
    assert clock.slept == [1.5]


async def test_a_scenario_goes_off_after_its_times(client):
    await client.turn_on("html-error", times=2)
    assert [(await client.post("get-balances")).status_code for _ in range(3)] == [500, 500, 200]


async def test_a_scenario_for_one_function_comes_before_the_one_for_all(client):
    await client.turn_on("html-error")
    await client.turn_on("challenge-403", function="get-balances", times=1)
    calls = ["get-balances", "get-balances", "get-transactions"]
    assert [(await client.post(call)).status_code for call in calls] == [403, 500, 500]


async def test_scenarios_are_listed_with_those_that_are_on_and_can_be_turned_off(client):
    turned_on = (await client.turn_on("slow", function="get-balances", times=3)).json()
    assert turned_on == {"name": "slow", "function": "get-balances", "times": 3, "seconds": 5.0}
    listing = (await client.http.get("/simulator/scenarios")).json()
    assert listing["active"] == [turned_on]
    assert {entry["name"] for entry in listing["scenarios"]} == set(SCENARIOS)
    assert all(entry["summary"] for entry in listing["scenarios"])
    assert (await client.http.delete("/simulator/scenario")).status_code == 204
    assert (await client.http.get("/simulator/scenarios")).json()["active"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "nope"},
        {},
        {"name": "slow", "times": 0},
        {"name": "slow", "times": True},
        {"name": "slow", "seconds": -1},
        {"name": "slow", "seconds": "1"},
        {"name": "slow", "unknown": 1},
        [],
    ],
)
async def test_a_scenario_that_makes_no_sense_is_refused(client, body):
    response = await client.http.post("/simulator/scenario", json=body)
    assert response.status_code == 400
    assert response.json()["error"][0]["msg"]
    assert (await client.http.get("/simulator/scenarios")).json()["active"] == []


async def test_calls_are_kept_in_the_order_and_with_the_fields_that_were_sent(client):
    body = "function=get-balances&b=2&a=1&a=%e9&api-key=sim-key&signature=abc&+api-key=sim-key"
    await client.http.post("/api.php", content=body, headers=FORM)
    await client.http.get("/api.php")
    calls = (await client.http.get("/simulator/calls")).json()["calls"]
    assert calls == [
        {
            "method": "POST",
            "function": "get-balances",
            "fields": [
                ["function", "get-balances"],
                ["b", "2"],
                ["a", "1"],
                ["a", "\\xe9"],
                ["api-key", "***"],
                ["signature", "***"],
                [" api-key", "***"],
            ],
            "received_at": "2023-11-14T22:13:20Z",
        },
        {"method": "GET", "function": None, "fields": [], "received_at": "2023-11-14T22:13:20Z"},
    ]
    assert (await client.http.delete("/simulator/calls")).status_code == 204
    assert (await client.http.get("/simulator/calls")).json() == {"calls": []}


async def test_a_secret_in_the_wrong_place_is_masked_too(client):
    await client.form({"function": "sim-key", "note": "a your-webhook-secret-key b", "sim-key": "x"})
    shown = (await client.http.get("/simulator/calls")).text
    assert "sim-key" not in shown
    assert "your-webhook-secret-key" not in shown
    assert "a *** b" in shown


async def test_a_reset_goes_back_to_the_beginning(connect):
    client = connect(throttle_per_minute=2, pays_itself_after=0.0)
    await client.call("create-checkout-session", **ORDER)
    await client.http.post("/simulator/transactions", json={})
    await client.turn_on("html-error")
    await client.post("get-balances")
    assert (await client.post("get-balances")).status_code == 429
    assert (await client.http.post("/simulator/reset")).status_code == 204
    assert (await client.http.get("/simulator/calls")).json() == {"calls": []}
    assert (await client.call("get-transactions"))["response"] == []
    assert (await client.http.post("/simulator/transactions", json={})).json()["id"] == "1"
