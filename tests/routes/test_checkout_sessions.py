"""Starting a payment: the price that was asked for is the price that is sent and signed, or there is no payment."""

import hashlib
import hmac
import json

import httpx
import pytest

from tests.plugins.gateway import MARKER, WEBHOOK_SECRET

ORDER = {"price": "49.99", "currency": "usd", "order_id": "ORD-1"}


def post(gateway, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.http.post(
        "/checkout-sessions", content=content, headers={"Content-Type": "application/json", **headers}
    )


def test_a_session_is_open_and_has_a_page_and_a_place(gateway):
    answer = post(gateway, {**ORDER, "currency": "USD", "metadata": {"cart": "7"}})
    assert answer.status_code == 201
    session = answer.json()
    assert session["id"].startswith("cs_")
    assert len(session["id"]) >= 3 + 32
    assert answer.headers["location"] == f"/checkout-sessions/{session['id']}"
    assert httpx.URL(session["payment_url"]).host == "127.0.0.1"
    assert {name: session[name] for name in ("status", "price", "currency", "order_id", "metadata", "transaction")} == {
        "status": "open",
        "price": "49.99",
        "currency": "usd",
        "order_id": "ORD-1",
        "metadata": {"cart": "7"},
        "transaction": None,
    }


def test_what_is_sent_is_exactly_what_was_asked_and_signed(gateway, simulator):
    answer = post(gateway, {"price": "49.90", "currency": "EUR", "order_id": "Ünï & 1=2", "metadata": {"a": "b"}})
    assert answer.status_code == 201
    [call] = simulator.calls()
    names = [name for name, _ in call["fields"]]
    assert names == ["price", "currency", "order_id", "timestamp", "signature", "function", "api-key"]
    sent = dict(call["fields"])
    assert (sent["price"], sent["currency"], sent["order_id"]) == ("49.90", "eur", "Ünï & 1=2")
    # The simulator checks the signature by itself: a wrong one would have been refused.


def test_without_an_order_id_the_sessions_id_is_sent(gateway, simulator):
    session = post(gateway, {"price": "1", "currency": "jpy"}).json()
    assert session["order_id"] == session["id"]
    assert dict(simulator.calls()[0]["fields"])["order_id"] == session["id"]


def test_two_sessions_never_share_an_id(gateway):
    assert post(gateway, ORDER).json()["id"] != post(gateway, ORDER).json()["id"]


@pytest.mark.parametrize("price", ["0.01", "1", "999999999999.99", "49.9", "007.50"])
def test_good_prices_pass(gateway, price):
    assert post(gateway, {**ORDER, "price": price}).status_code == 201


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        *[({"price": price}, "#/price") for price in (
            "0", "0.00", "-1", "+1", "1e3", "NaN", "Infinity", "49.999", "９", "４９.99", "49.", ".5", "", " 1", "1 ", "1\n",
            "1,50", "1_000", "0x10", "1234567890123", 49.99, 50, True, None, ["1"], {"a": "1"},
        )],
        ({"price": "1.5", "currency": "jpy"}, "#/price"),
        ({"price": "1.0001", "currency": "kwd"}, "#/price"),
        ({"price": "1.123456789", "currency": "zzz"}, "#/price"),
        *[({"currency": code}, "#/currency") for code in ("u", "us$", "usd|1", "usd\n", "ＵＳＤ", "a" * 21, 840, None)],
        *[({"order_id": text}, "#/order_id") for text in (
            "", "a|b", "\ud800", "a\nb", "a\x00b", "a\x7f", "a\x85b", "x" * 256, "x" * 10_000, 5, ["x"],
        )],
        ({"metadata": {"a": 1}}, "#/metadata/a"),
        ({"metadata": {"a\n": "1"}}, "#/metadata/a\n"),
        ({"metadata": {"": "1"}}, "#/metadata/"),
        ({"metadata": {"a": "\udfff"}}, "#/metadata/a"),
        ({"metadata": {"a": "x" * 501}}, "#/metadata/a"),
        ({"metadata": {"a": "x\x01"}}, "#/metadata/a"),
        ({"metadata": {str(n): "x" for n in range(21)}}, "#/metadata"),
        ({"metadata": None}, "#/metadata"),
        ({"function": "refund"}, "#/function"),
        ({"timestamp": 1}, "#/timestamp"),
        ({"a/b~c": 1}, "#/a~1b~0c"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name_and_costs_no_call(gateway, simulator, change, pointer):
    answer = post(gateway, {**ORDER, **change})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "validation-failed"
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert "outcome" not in problem
    assert simulator.calls() == []


def test_a_currency_without_a_price_is_a_missing_price(gateway):
    faults = post(gateway, {"currency": "usd"}).json()["errors"]
    assert faults == [{"pointer": "#/price", "detail": "This is required."}]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"not json", b'{"price": NaN}', b'{"price":"1"} x', b"\xff\xfe{}", b'{"price":"\xff"}', b"\xef\xbb\xbf{}",
        b'{"price":"1","price":"2","currency":"usd"}', b'{"metadata":{"a":"1","a":"2"}}', b"[" * 60_000,
        b'{"a":' * 9_000, b'{"price": 1' + b"0" * 5_000 + b"}",
        json.dumps(ORDER).encode("utf-16"),
    ],
    ids=range(14),
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_malformed(gateway, simulator, body):
    answer = post(gateway, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert simulator.calls() == []


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"[" * 50 + b"]" * 50, b'{"order_id":"\\ud800"}'])
def test_json_that_is_no_order_is_invalid(gateway, body):
    assert post(gateway, body).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}, {"Content-Type": ""},
        {"Content-Type": "application/json; charset=latin-1"}, {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": "application/jsonx"},
    ],
)  # fmt: skip
def test_a_body_that_is_not_said_to_be_json_is_refused(gateway, headers):
    answer = post(gateway, ORDER, **headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


def test_the_charset_may_be_named(gateway):
    assert post(gateway, ORDER, **{"Content-Type": "Application/JSON; charset=UTF-8"}).status_code == 201


def padded(size: int) -> bytes:
    body = json.dumps(ORDER).encode()
    return body + b" " * (size - len(body))


def test_a_body_of_64_kib_passes_and_one_byte_more_does_not(gateway):
    assert post(gateway, padded(65_536)).status_code == 201
    answer = post(gateway, padded(65_537))
    assert (answer.status_code, answer.json()["code"]) == (413, "request-too-large")


def test_a_body_without_an_announced_length_is_bounded_too(gateway):
    def chunks():
        for _ in range(17):
            yield b" " * 4096

    answer = gateway.http.post("/checkout-sessions", content=chunks(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request-too-large")


@pytest.mark.parametrize(
    ("scenario", "status", "code", "outcome"),
    [
        ("html-error", 502, "upstream-invalid-response", "unknown"),
        ("html-200", 502, "upstream-invalid-response", "unknown"),
        ("challenge-403", 502, "upstream-invalid-response", "unknown"),
        ("empty", 502, "upstream-invalid-response", "unknown"),
        ("empty-500", 502, "upstream-invalid-response", "unknown"),
        ("cut-off", 502, "upstream-invalid-response", "unknown"),
        ("truncated-json", 502, "upstream-invalid-response", "unknown"),
        ("garbage", 502, "upstream-invalid-response", "unknown"),
        ("reset", 502, "upstream-invalid-response", "unknown"),
        ("close", 502, "upstream-invalid-response", "unknown"),
        ("huge", 502, "upstream-invalid-response", "unknown"),
        ("huge-chunked", 502, "upstream-invalid-response", "unknown"),
        ("gzip", 502, "upstream-invalid-response", "unknown"),
        ("gzip-bomb", 502, "upstream-invalid-response", "unknown"),
        ("deep-nesting", 502, "upstream-invalid-response", "unknown"),
        ("redirect", 502, "upstream-invalid-response", "unknown"),
        ("redirect-307", 502, "upstream-invalid-response", "unknown"),
        ("duplicate-envelope", 502, "upstream-invalid-response", "unknown"),
        ("foreign-payment-url", 502, "upstream-invalid-response", "unknown"),
        ("userinfo-payment-url", 502, "upstream-invalid-response", "unknown"),
        ("no-payment-url", 502, "upstream-invalid-response", "unknown"),
        ("success-with-null", 502, "upstream-invalid-response", "unknown"),
        ("success-with-error-text", 502, "upstream-rejected", None),
        ("success-with-error-list", 502, "upstream-rejected", None),
        ("success-with-error-object", 502, "upstream-rejected", None),
        ("success-false-bare", 502, "upstream-rejected", None),
        ("success-false-text-in-response", 502, "upstream-rejected", None),
        ("unknown-slug", 502, "upstream-rejected", None),
        ("hostile-slug", 502, "upstream-rejected", None),
        ("bad-signature", 502, "upstream-rejected", None),
        ("missing-argument", 502, "upstream-rejected", None),
        ("invalid-api-key", 502, "upstream-credentials-rejected", None),
        ("expired", 502, "upstream-clock-skew", None),
        ("function-missing", 501, "function-not-supported", None),
        ("throttled-429", 503, "upstream-throttled", "unknown"),
        ("throttled-503", 503, "upstream-throttled", "unknown"),
        ("throttled-200", 503, "upstream-throttled", None),
    ],
)
def test_each_misbehaviour_has_its_answer(gateway, simulator, scenario, status, code, outcome):
    simulator.scenario(scenario)
    answer = post(gateway, ORDER)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("outcome")) == (status, code, outcome)
    assert "payment_url" not in problem
    if status == 503:
        assert int(answer.headers["retry-after"]) == problem["retry_after"] >= 1
    simulator.scenario("unknown-slug", times=1)
    assert post(gateway, ORDER).json()["upstream_code"]


@pytest.mark.parametrize(
    "scenario",
    ["php-notice-before", "php-notice-after", "bom", "success-as-string", "success-as-number"],
)
def test_what_contract_10_tolerates_is_tolerated(gateway, simulator, scenario):
    simulator.scenario(scenario)
    assert post(gateway, ORDER).status_code == 201


def test_a_slow_quantapay_meets_the_deadline(settings_of, simulator, gateway):
    from tests.plugins.gateway import running

    with running(settings_of(quantapay_timeout=0.3), seen=gateway.seen) as hurried:
        simulator.scenario("hang", times=2)
        answer = hurried.http.post("/checkout-sessions", json=ORDER)
        assert (answer.status_code, answer.json()["code"]) == (504, "upstream-timeout")
        assert answer.json()["outcome"] == "unknown"
        assert answer.elapsed.total_seconds() < 1
        read = hurried.http.get("/balances").json()
        assert read["code"] == "upstream-timeout"
        assert "outcome" not in read


def test_a_quantapay_that_is_not_there_was_never_sent_to(settings_of, gateway):
    from tests.plugins.gateway import running

    with running(settings_of(quantapay_url="http://127.0.0.1:9/api.php"), seen=gateway.seen) as alone:
        answer = alone.http.post("/checkout-sessions", json=ORDER)
        assert (answer.status_code, answer.json()["code"]) == (503, "upstream-unavailable")
        assert answer.json()["outcome"] == "not_sent"
        assert int(answer.headers["retry-after"]) >= 1


def test_an_unsigned_account_sends_no_signature(settings_of, simulator, gateway):
    from tests.plugins.gateway import running

    settings = settings_of(quantapay_webhook_secret=None, quantapay_unsigned=True)
    with running(settings, seen=gateway.seen) as unsigned:
        assert unsigned.http.post("/checkout-sessions", json=ORDER).status_code == 201
    assert "signature" not in dict(simulator.calls()[0]["fields"])


def test_links_are_absolute_where_the_public_address_is_known(settings_of, simulator, gateway):
    from tests.plugins.gateway import running

    with running(settings_of(public_url="https://pay.shop.example"), seen=gateway.seen) as public:
        answer = public.http.post("/checkout-sessions", json=ORDER)
        assert answer.headers["location"].startswith("https://pay.shop.example/checkout-sessions/cs_")
        assert public.http.get("/nope").json()["type"] == "https://pay.shop.example/problems/not-found"


def test_the_marker_would_be_found_in_a_signature_check():
    """The secrets of this suite hold the marker, so the search at its end means something."""
    assert MARKER in WEBHOOK_SECRET
    digest = hmac.new(WEBHOOK_SECRET.encode(), b"x", hashlib.sha256).hexdigest()
    assert MARKER not in digest


def test_a_content_type_that_only_looks_encoded_is_refused(gateway):
    odd = "application/json; charset*" + "9" * 5000 + "*=x"
    answer = gateway.http.post("/checkout-sessions", content=b"{}", headers={"Content-Type": odd})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
