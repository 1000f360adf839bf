"""The client's promises: what is sent, what each failure means, one deadline, either of two secrets, what is retried."""

import asyncio
import json
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.errors import (
    FunctionNotSupported,
    UpstreamBudgetExhausted,
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
from gateway.quantapay.guard import BreakerOpen
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.signing import checkout_signature
from gateway.quantapay.urgency import Urgency
from gateway.telemetry.metrics import Metrics
from tests.plugins.upstream import Mocked

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
    """Time passes only while someone sleeps, and nobody waits for that."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return 1_700_000_000.9

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def random(self) -> float:
        return 0.5


class Budget:
    """Grants what it is told to, and keeps what it was asked."""

    def __init__(self, grants: int = 1000) -> None:
        self.grants = grants
        self.asked: list[Urgency] = []
        self.throttles = 0

    async def take(self, urgency: Urgency) -> None:
        self.asked.append(urgency)
        if len(self.asked) > self.grants:
            raise UpstreamBudgetExhausted(retry_after=7, outcome="not_sent")

    async def throttled(self) -> None:
        self.throttles += 1


def client_of(
    upstream: Upstream,
    *,
    keys=("key-1",),
    secrets=("hook-1",),
    timeout=5.0,
    rename=None,
    budget=None,
    clock=None,
    metrics=None,
) -> QuantaPay:
    return QuantaPay(
        Mocked(upstream),
        url=URL,
        api_keys=RotatingSecret(*map(SecretStr, keys)),
        signing_secrets=RotatingSecret(*map(SecretStr, secrets)) if secrets else None,
        payment_urls=PaymentUrls(["cloud.quantapay.app"], upstream_on_loopback=False),
        timeout=timeout,
        upstream_name=lambda name: (rename or {}).get(name, name),
        budget=budget or Budget(),
        clock=clock or HeldClock(),
        metrics=metrics or Metrics(),
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
        (httpx.ReadTimeout("x"), UpstreamTimeout, "unknown"),
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

    client = client_of(Upstream(slowly), keys=("old", "new"), timeout=0.2, clock=SystemClock())
    with pytest.raises(UpstreamTimeout) as caught:
        await client.create_checkout_session(**ORDER)
    assert caught.value.outcome == "unknown"


async def test_an_answer_that_is_compressed_unasked_is_not_expanded():
    upstream = Upstream(reply(200, b"\x1f\x8b junk", content_encoding="gzip"))
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream).call(GET_BALANCES)


@pytest.mark.parametrize("header", ["Tue, 14 Nov 2023 22:13:50 GMT", "nonsense", None])
async def test_the_clocks_are_compared_by_the_date_header(header):
    metrics = Metrics()
    upstream = Upstream(reply(content='{"success":true,"response":[]}', **({"date": header} if header else {})))
    client = client_of(upstream, metrics=metrics)
    await client.call(GET_BALANCES)
    skew = metrics.registry.get_sample_value("quantapay_clock_skew_seconds")
    assert skew == (pytest.approx(29.1) if header and header.startswith("Tue") else 0)
    assert client.clock_skew == (skew or None)


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
    labels = {"function": "get-balances", "outcome": "upstream-timeout"}
    assert count("quantapay_request_duration_seconds_count", labels) == 1
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


# What is tried again, and what is refused before it is sent

FINE = {"success": True, "response": []}
CUT = httpx.RemoteProtocolError("cut off")
REFUSED = httpx.ConnectError("refused")


@pytest.mark.parametrize("failure", [REFUSED, CUT, reply(500, "<h1>no</h1>"), reply(200, "garbage")])
async def test_a_read_that_fails_twice_is_answered_by_the_third_attempt(failure):
    upstream, clock, budget = Upstream(failure, failure, FINE), HeldClock(), Budget()
    client = client_of(upstream, clock=clock, budget=budget)
    assert (await client.call(GET_BALANCES)).balances == ()
    assert len(upstream.forms) == 3
    assert clock.slept == [0.05, 0.1]
    assert budget.asked == [Urgency.READ] * 3
    count = client._metrics.registry.get_sample_value
    assert count("quantapay_requests_total", {"function": "get-balances", "outcome": "ok"}) == 1


async def test_a_read_that_fails_three_times_has_failed():
    upstream = Upstream(CUT)
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream).call(GET_BALANCES)
    assert len(upstream.forms) == 3


async def test_the_keys_of_a_rotation_share_a_calls_two_retries():
    upstream = Upstream(CUT, REFUSED_KEY, CUT, CUT)
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream, keys=("old", "new")).call(GET_BALANCES)
    assert [dict(form)["api-key"] for form in upstream.forms] == ["old", "old", "new", "new"]


async def test_a_create_that_was_surely_not_sent_is_tried_again():
    upstream, budget = Upstream(REFUSED, PAGE), Budget()
    page = await client_of(upstream, budget=budget).create_checkout_session(**ORDER)
    assert page.payment_url == PAGE["response"]["payment_url"]
    assert budget.asked == [Urgency.URGENT] * 2


@pytest.mark.parametrize("failure", [CUT, reply(500, "<h1>no</h1>"), reply(200, "garbage"), httpx.ReadTimeout("x")])
async def test_what_may_have_arrived_and_may_not_be_repeated_is_not_sent_again(failure):
    upstream = Upstream(failure)
    client = client_of(upstream)
    with pytest.raises((UpstreamInvalidResponse, UpstreamTimeout)) as caught:
        await client.create_checkout_session(**ORDER)
    assert caught.value.outcome == "unknown"
    with pytest.raises((UpstreamInvalidResponse, UpstreamTimeout)) as caught:
        await client.call(passthrough("odd-one", {}))
    assert caught.value.outcome == "unknown"
    assert len(upstream.forms) == 2


async def test_a_function_of_the_operators_list_is_tried_again_if_it_was_surely_not_sent():
    upstream = Upstream(REFUSED, FINE)
    assert await client_of(upstream).call(passthrough("odd-one", {})) == []
    assert len(upstream.forms) == 2


@pytest.mark.parametrize(
    "failure",
    [{"success": False, "error_code": "odd"}, reply(429), reply(503), httpx.ReadTimeout("x"), REFUSED_KEY],
)
async def test_a_refusal_a_throttle_and_a_timeout_are_not_tried_again(failure):
    upstream = Upstream(failure)
    with pytest.raises((UpstreamRejected, UpstreamThrottled, UpstreamTimeout, UpstreamCredentialsRejected)):
        await client_of(upstream).call(GET_BALANCES)
    assert len(upstream.forms) == 1


@pytest.mark.parametrize("status", [500, 502])
async def test_a_refusal_that_is_not_definite_is_not_followed_by_the_next_secret(status):
    upstream = Upstream(reply(status, '{"success":false,"error_code":"odd"}'))
    with pytest.raises(UpstreamRejected) as caught:
        await client_of(upstream, secrets=("old", "new")).create_checkout_session(**ORDER)
    assert (caught.value.outcome, caught.value.upstream_status) == ("unknown", status)
    assert len(upstream.forms) == 1


async def test_a_create_whose_last_attempt_was_not_sent_after_a_definite_refusal_says_so():
    with pytest.raises(UpstreamUnavailable) as caught:
        await client_of(Upstream(REFUSED_KEY, REFUSED), keys=("old", "new")).create_checkout_session(**ORDER)
    assert caught.value.outcome == "not_sent"


async def test_in_an_outage_retries_add_a_fifth_and_three_more():
    upstream, clock = Upstream(CUT), HeldClock()
    client = client_of(upstream, clock=clock)
    for _ in range(100):
        clock.now += 31  # too few at a time for the breaker
        with pytest.raises(UpstreamInvalidResponse):
            await client.call(GET_BALANCES)
    assert len(upstream.forms) == 123


async def test_a_retry_that_the_deadline_would_cut_off_is_not_begun():
    upstream, clock = Upstream(CUT), HeldClock()
    with pytest.raises(UpstreamInvalidResponse):
        await client_of(upstream, clock=clock, timeout=0.12).call(GET_BALANCES)
    assert len(upstream.forms) == 2  # 0.05 s fit, 0.1 s more do not
    assert clock.slept == [0.05]


async def test_without_budget_nothing_is_sent_and_the_refusal_is_counted_but_not_timed():
    upstream = Upstream(PAGE)
    client = client_of(upstream, budget=Budget(grants=0))
    with pytest.raises(UpstreamBudgetExhausted) as caught:
        await client.create_checkout_session(**ORDER)
    assert (caught.value.outcome, caught.value.retry_after) == ("not_sent", 7)
    with pytest.raises(UpstreamBudgetExhausted) as caught:
        await client.call(GET_BALANCES)
    assert (caught.value.outcome, caught.value.upstream_status) == (None, None)
    assert upstream.forms == []
    count = client._metrics.registry.get_sample_value
    labels = {"function": "create-checkout-session", "outcome": "upstream-budget-exhausted"}
    assert count("quantapay_requests_total", labels) == 1
    assert count("quantapay_request_duration_seconds_count", labels) is None
    assert client.last_outcomes["get-balances"] == "upstream-budget-exhausted"


async def test_when_a_retry_is_refused_the_caller_hears_what_quantapay_did():
    upstream = Upstream(reply(500, "<html>"))
    client = client_of(upstream, budget=Budget(grants=1), clock=HeldClock())
    with pytest.raises(UpstreamInvalidResponse) as caught:
        await client.call(GET_BALANCES)
    assert caught.value.upstream_status == 500
    assert len(upstream.forms) == 1


async def test_a_call_that_fails_again_when_retried_is_one_failed_call_to_the_breaker():
    upstream = Upstream(reply(500, "<html>"))
    client = client_of(upstream, clock=HeldClock())
    for _ in range(9):
        with pytest.raises(UpstreamInvalidResponse):
            await client.call(GET_BALANCES)
    assert len(upstream.forms) > 9, "some were retried"
    assert client.breakers["get-balances"] == "closed"
    with pytest.raises(UpstreamInvalidResponse):
        await client.call(GET_BALANCES)
    assert client.breakers["get-balances"] == "open"


async def test_each_second_key_takes_one_of_the_budget():
    budget = Budget(grants=1)
    with pytest.raises(UpstreamBudgetExhausted) as caught:
        await client_of(Upstream(REFUSED_KEY), keys=("old", "new"), budget=budget).create_checkout_session(**ORDER)
    assert caught.value.outcome == "not_sent"
    assert len(budget.asked) == 2


async def test_the_budget_hears_of_throttling():
    budget = Budget()
    with pytest.raises(UpstreamThrottled):
        await client_of(Upstream(reply(429, retry_after="9")), budget=budget).call(GET_BALANCES)
    assert budget.throttles == 1


async def test_after_ten_failures_nothing_is_sent_until_a_probe_succeeds():
    upstream, clock = Upstream(httpx.ReadTimeout("x")), HeldClock()
    client = client_of(upstream, clock=clock)
    for _ in range(10):
        with pytest.raises(UpstreamTimeout):
            await client.create_checkout_session(**ORDER)
    with pytest.raises(BreakerOpen) as caught:
        await client.create_checkout_session(**ORDER)
    assert (caught.value.code, caught.value.outcome) == ("upstream-unavailable", "not_sent")
    assert caught.value.retry_after == 5
    assert client.breakers == {"connect": "closed", "create-checkout-session": "open"}
    assert len(upstream.forms) == 10
    upstream.answers = [PAGE]
    clock.now += 5
    await client.create_checkout_session(**ORDER)
    assert client.breakers["create-checkout-session"] == "closed"


async def test_a_probe_that_the_budget_refuses_leaves_its_place_to_the_next():
    upstream, clock, budget = Upstream(httpx.ReadTimeout("x")), HeldClock(), Budget(grants=10)
    client = client_of(upstream, clock=clock, budget=budget)
    for _ in range(10):
        with pytest.raises(UpstreamTimeout):
            await client.call(GET_BALANCES)
    clock.now += 5
    for _ in range(3):
        with pytest.raises(UpstreamBudgetExhausted):
            await client.call(GET_BALANCES)
    budget.grants = 1000
    upstream.answers = [FINE]
    await client.call(GET_BALANCES)
    assert client.breakers["get-balances"] == "closed"


async def test_a_budget_that_keeps_a_create_waiting_until_the_deadline_has_not_sent_it():
    class Slow(Budget):
        async def take(self, urgency: Urgency) -> None:
            await asyncio.Event().wait()

    upstream = Upstream(PAGE)
    client = client_of(upstream, budget=Slow(), timeout=0.05)
    with pytest.raises(UpstreamTimeout) as caught:
        await client.create_checkout_session(**ORDER)
    assert caught.value.outcome == "not_sent"
    assert upstream.forms == []
    labels = {"function": "create-checkout-session", "outcome": "upstream-timeout"}
    assert client._metrics.registry.get_sample_value("quantapay_request_duration_seconds_count", labels) is None


async def test_an_error_tells_the_status_of_the_answer_even_if_its_body_was_cut_off():
    async def cut():
        yield b"{"
        raise CUT

    with pytest.raises(UpstreamInvalidResponse) as caught:
        await client_of(Upstream(httpx.Response(206, content=cut()))).create_checkout_session(**ORDER)
    assert caught.value.upstream_status == 206
    with pytest.raises(UpstreamInvalidResponse) as caught:
        await client_of(Upstream(reply(500, "<h1>no</h1>"))).call(GET_BALANCES)
    assert caught.value.upstream_status == 500
    with pytest.raises(UpstreamInvalidResponse) as caught:
        await client_of(Upstream(CUT)).call(GET_BALANCES)
    assert caught.value.upstream_status is None


async def turns(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turn", range(24))
async def test_a_caller_that_hangs_up_at_any_moment_leaves_nothing_behind(turn):
    """The call is a probe, its first attempt fails, and every step of it takes a few turns of the loop."""

    class Slow(Budget):
        async def take(self, urgency: Urgency) -> None:
            await turns(3)
            await super().take(urgency)

    class SlowClock(HeldClock):
        async def sleep(self, seconds: float) -> None:
            await turns(3)

    async def slowly(_request):
        await turns(3)
        return reply(content=json.dumps(REFUSED_KEY))

    async def slowly_fine(_request):
        await turns(3)
        return reply(content=json.dumps(PAGE))

    upstream, clock = Upstream(httpx.ReadTimeout("x")), SlowClock()
    client = client_of(upstream, clock=clock, budget=Slow(), keys=("old", "new"))
    for _ in range(10):
        with pytest.raises(UpstreamTimeout):
            await client.create_checkout_session(**ORDER)
    clock.now += 5
    upstream.answers = [REFUSED, slowly, slowly_fine]

    call = asyncio.create_task(client.create_checkout_session(**ORDER))
    await turns(turn)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert client.breakers["create-checkout-session"] in {"open", "closed"}
    upstream.answers = [PAGE]
    await client.create_checkout_session(**ORDER)
    assert client.breakers == {"connect": "closed", "create-checkout-session": "closed"}
    bulkhead = client._guard._bulkheads["create-checkout-session"]
    assert (bulkhead._places._value, bulkhead._waiting) == (64, 0)
