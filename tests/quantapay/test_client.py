"""The client's promises: what is sent, what each failure means, one deadline, either of two secrets."""

import asyncio
import json
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.errors import (
    FunctionNotSupported,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.functions import GET_BALANCES, GET_EXCHANGE_RATES, GET_TRANSACTIONS, passthrough
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.signing import checkout_signature
from gateway.telemetry.metrics import Metrics

URL = "https://cloud.quantapay.app/api.php"
PAGE = {"success": True, "response": {"payment_url": "https://cloud.quantapay.app/pay.php?checkout_id=cs-1"}}
ORDER = {"price": "49.90", "currency": "usd", "order_id": "Ü & 1"}


def reply(status=200, content: bytes | str = b"", **headers: str) -> httpx.Response:
    """An answer whose bytes are still to be read, as one from a socket."""
    body = content.encode() if isinstance(content, str) else content
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=names, stream=httpx.ByteStream(body))


class Upstream:
    """Answers with what it was given and keeps what it was sent."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.forms: list[list[tuple[str, str]]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return await answer(request)
        if isinstance(answer, httpx.Response):
            if isinstance(answer.stream, httpx.ByteStream):  # fresh, as an answer may be given again
                return reply(answer.status_code, b"".join(answer.stream), **dict(answer.headers))
            return answer
        return reply(content=json.dumps(answer))


class HeldClock(SystemClock):
    def time(self) -> float:
        return 1_700_000_000.9


def client_of(upstream: Upstream, *, keys=("key-1",), secrets=("hook-1",), timeout=5.0, rename=None) -> QuantaPay:
    return QuantaPay(
        httpx.MockTransport(upstream),
        url=URL,
        api_keys=RotatingSecret(*map(SecretStr, keys)),
        signing_secrets=RotatingSecret(*map(SecretStr, secrets)) if secrets else None,
        payment_urls=PaymentUrls(["cloud.quantapay.app"], upstream_on_loopback=False),
        timeout=timeout,
        upstream_name=lambda name: (rename or {}).get(name, name),
        clock=HeldClock(),
        metrics=Metrics(),
    )


async def test_the_key_goes_last_and_the_function_just_before_it():
    upstream = Upstream({"success": True, "response": "1"})
    await client_of(upstream).call(GET_EXCHANGE_RATES, {"cryptocurrency": "btc", "currency": "usd"})
    assert upstream.forms == [
        [
            ("currency_code", "usd"),
            ("cryptocurrency_code", "btc"),
            ("function", "get-exchange-rates"),
            ("api-key", "key-1"),
        ]
    ]


async def test_an_account_that_names_a_function_otherwise_is_called_by_its_name():
    upstream = Upstream({"success": True, "response": []})
    await client_of(upstream, rename={"get-transactions": "list-tx"}).call(GET_TRANSACTIONS, {"page": "0"})
    assert upstream.forms == [[("pagination", "0"), ("function", "list-tx"), ("api-key", "key-1")]]


async def test_a_checkout_session_is_signed_over_exactly_the_texts_that_are_sent():
    upstream = Upstream(PAGE)
    page = await client_of(upstream).create_checkout_session(**ORDER)
    assert page.payment_url == PAGE["response"]["payment_url"]
    form = dict(upstream.forms[0])
    assert {name: form[name] for name in ORDER} == ORDER
    assert form["timestamp"] == "1700000000"
    assert form["signature"] == checkout_signature(SecretStr("hook-1"), **ORDER, timestamp="1700000000")


async def test_without_a_secret_nothing_is_signed():
    upstream = Upstream(PAGE)
    await client_of(upstream, secrets=()).create_checkout_session(**ORDER)
    assert [name for name, _ in upstream.forms[0]] == ["price", "currency", "order_id", "function", "api-key"]


REFUSED_KEY = {"success": False, "error_code": "invalid-api-key", "message": "no"}


async def test_the_next_key_is_tried_once_and_then_used_first():
    upstream = Upstream(REFUSED_KEY, {"success": True, "response": []})
    client = client_of(upstream, keys=("old", "new"))
    await client.call(GET_BALANCES)
    await client.call(GET_BALANCES)
    assert [dict(form)["api-key"] for form in upstream.forms] == ["old", "new", "new"]


async def test_two_refused_keys_are_credentials_rejected():
    upstream = Upstream(REFUSED_KEY)
    with pytest.raises(UpstreamCredentialsRejected):
        await client_of(upstream, keys=("old", "new")).call(GET_BALANCES)
    assert len(upstream.forms) == 2


async def test_the_next_signing_secret_is_tried_once_and_then_used_first():
    refused = {"success": False, "error_code": "bad-signature", "message": "no"}
    upstream = Upstream(refused, PAGE)
    client = client_of(upstream, secrets=("old", "new"))
    await client.create_checkout_session(**ORDER)
    await client.create_checkout_session(**ORDER)
    by_new = checkout_signature(SecretStr("new"), **ORDER, timestamp="1700000000")
    assert [dict(form)["signature"] == by_new for form in upstream.forms] == [False, True, True]


@pytest.mark.parametrize(
    ("failure", "expected", "outcome"),
    [
        (httpx.ConnectError("x"), UpstreamUnavailable, "not_sent"),
        (httpx.ConnectTimeout("x"), UpstreamUnavailable, "not_sent"),
        (httpx.PoolTimeout("x"), UpstreamUnavailable, "not_sent"),
        (httpx.ReadTimeout("x"), UpstreamTimeout, "unknown"),
        (httpx.WriteTimeout("x"), UpstreamTimeout, "unknown"),
        (httpx.ReadError("x"), UpstreamInvalidResponse, "unknown"),
        (httpx.WriteError("x"), UpstreamInvalidResponse, "unknown"),
        (httpx.RemoteProtocolError("x"), UpstreamInvalidResponse, "unknown"),
        (reply(500, "<h1>no</h1>"), UpstreamInvalidResponse, "unknown"),
        (reply(200, ""), UpstreamInvalidResponse, "unknown"),
        (reply(302, location="https://evil.example/"), UpstreamInvalidResponse, "unknown"),
        (reply(429, "slow"), UpstreamThrottled, "unknown"),
        (reply(503, "slow"), UpstreamThrottled, "unknown"),
        ({"success": True, "response": {}}, UpstreamInvalidResponse, "unknown"),
        (
            {"success": True, "response": {"payment_url": "https://evil.example/"}},
            UpstreamInvalidResponse,
            "unknown",
        ),
        (reply(500, '{"success":false,"error_code":"odd"}'), UpstreamRejected, "unknown"),
        ({"success": False, "error_code": "odd"}, UpstreamRejected, None),
        ({"success": False, "error_code": "too-many-requests"}, UpstreamThrottled, None),
        ({"success": False, "error_code": "function-not-found"}, FunctionNotSupported, None),
        (REFUSED_KEY, UpstreamCredentialsRejected, None),
    ],
)
async def test_a_failed_create_says_what_became_of_it_and_a_failed_read_does_not(failure, expected, outcome):
    with pytest.raises(expected) as caught:
        await client_of(Upstream(failure)).create_checkout_session(**ORDER)
    assert caught.value.outcome == outcome
    if failure != {"success": True, "response": {}} and "payment_url" not in str(failure):
        with pytest.raises(expected) as caught:
            await client_of(Upstream(failure)).call(GET_BALANCES)
        assert caught.value.outcome is None


async def test_everything_a_call_does_shares_one_deadline():
    async def slowly(_request):
        await asyncio.sleep(0.15)
        return reply(content=json.dumps(REFUSED_KEY))

    with pytest.raises(UpstreamTimeout) as caught:
        await client_of(Upstream(slowly), keys=("old", "new"), timeout=0.2).create_checkout_session(**ORDER)
    assert caught.value.outcome == "unknown"


async def test_an_answer_over_a_mebibyte_is_not_read_to_its_end():
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b" " * 65536

    upstream = Upstream(httpx.Response(200, content=endless()))
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream).call(GET_BALANCES)
    assert read == 17


async def test_an_answer_that_is_compressed_unasked_is_not_expanded():
    upstream = Upstream(reply(200, b"\x1f\x8b junk", content_encoding="gzip"))
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream).call(GET_BALANCES)


@pytest.mark.parametrize("header", ["Tue, 14 Nov 2023 22:13:50 GMT", "nonsense", None])
async def test_the_clocks_are_compared_by_the_date_header(header):
    metrics = Metrics()
    upstream = Upstream(reply(content='{"success":true,"response":[]}', **({"date": header} if header else {})))
    client = client_of(upstream)
    client._metrics = metrics
    await client.call(GET_BALANCES)
    skew = metrics.registry.get_sample_value("quantapay_clock_skew_seconds")
    assert skew == (pytest.approx(29.1) if header and header.startswith("Tue") else 0)


async def test_every_call_is_counted_by_function_and_outcome():
    client = client_of(Upstream(REFUSED_KEY, {"success": True, "response": []}), keys=("old", "new"))
    await client.call(GET_BALANCES)
    count = client._metrics.registry.get_sample_value
    labels = {"function": "get-balances"}
    assert count("quantapay_requests_total", labels | {"outcome": "upstream-credentials-rejected"}) == 1
    assert count("quantapay_requests_total", labels | {"outcome": "ok"}) == 1
    assert count("quantapay_request_duration_seconds_count", labels | {"outcome": "ok"}) == 1


async def test_a_timed_out_call_is_counted_once_and_not_as_good():
    async def never(_request):
        await asyncio.sleep(60)

    client = client_of(Upstream(never), timeout=0.05)
    with pytest.raises(UpstreamTimeout):
        await client.call(GET_BALANCES)
    count = client._metrics.registry.get_sample_value
    assert count("quantapay_requests_total", {"function": "get-balances", "outcome": "upstream-timeout"}) == 1
    assert count("quantapay_requests_total", {"function": "get-balances", "outcome": "ok"}) is None


async def test_a_function_of_the_operators_list_travels_and_returns_as_it_is():
    upstream = Upstream(reply(content='{"success":true,"response":{"a":[1.50,"x",null]}}'))
    found = await client_of(upstream).call(passthrough("odd-one", {"b": "2", "a[]": "1"}), {"b": "2", "a[]": "1"})
    assert upstream.forms == [[("b", "2"), ("a[]", "1"), ("function", "odd-one"), ("api-key", "key-1")]]
    assert str(found["a"][0]) == "1.50"


async def test_no_error_holds_the_key_or_the_body(caplog):
    canary = "canary-7f3a"
    bodies = [canary, f'{{"success":false,"message":"{canary}"}}', f"<b>{canary}</b>"]
    for body in bodies:
        with pytest.raises((UpstreamInvalidResponse, UpstreamRejected)) as caught:
            await client_of(Upstream(reply(content=body)), keys=(canary,)).call(GET_BALANCES)
        seen, error = [], caught.value
        while error is not None:
            seen += [repr(error), str(vars(error))]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        assert canary not in "".join(seen)
    assert canary not in caplog.text
