"""Cached reads from outside: fresh answers cost no call, stale ones stand in, and the headers tell the truth."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.store.client import DEADLINE
from tests.plugins.gateway import READER_KEY, ShiftedClock, example_config, running

RATE = "/exchange-rates/btc?currency=usd"


class Cached:
    """A gateway that caches as it does by default, and its calls to QuantaPay."""

    def __init__(self, outside, simulator, valkey, clock):
        self.outside = outside
        self.http = outside.http
        self.simulator = simulator
        self._valkey = valkey
        self._clock = clock

    @property
    def calls(self) -> int:
        return len(self.simulator.calls())

    def get(self, path, **headers):
        return self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def wait(self, seconds: float) -> None:
        """Let time pass, for the gateway and for what it keeps in Valkey."""
        self._clock.ahead += seconds
        with self._valkey.client() as client:
            for key in client.scan_iter("qpg:cache:*"):
                client.pexpire(key, max(1, client.pttl(key) - int(seconds * 1000)))


@pytest.fixture
def cached_settings(settings_of):
    config = example_config()
    del config["cache"]
    return lambda **overrides: settings_of(config, **overrides)


@pytest.fixture
def cached(cached_settings, simulator, valkey, log_lines):
    clock = ShiftedClock()
    with running(cached_settings(quantapay_timeout=1.0), clock=clock) as outside:
        yield Cached(outside, simulator, valkey, clock)


def test_a_fresh_answer_is_given_again_without_a_call(cached):
    first = cached.get(RATE)
    assert first.headers["cache-status"] == "quantapay-gateway; fwd=miss; stored"
    assert first.headers["cache-control"] == "private, max-age=60"
    assert first.headers["age"] == "0"
    cached.wait(12)
    again = cached.get(RATE)
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["age"] == "12"
    name, hit, ttl = again.headers["cache-status"].split("; ")
    assert (name, hit) == ("quantapay-gateway", "hit")
    assert ttl in {"ttl=47", "ttl=48"}
    assert cached.calls == 1


@pytest.mark.parametrize(
    ("path", "seconds"),
    [
        ("/balances", 30),
        ("/credit-balance", 60),
        (RATE, 60),
        ("/fiat-values/btc?currency=usd&amount=2", 60),
        ("/cryptocurrencies", 600),
    ],
)
def test_each_kind_is_fresh_for_as_long_as_documented(cached, path, seconds):
    assert cached.get(path).headers["cache-control"] == f"private, max-age={seconds}"
    cached.wait(seconds - 1)
    assert "; hit; " in cached.get(path).headers["cache-status"]
    cached.wait(2)
    assert "fwd=miss; stored" in cached.get(path).headers["cache-status"]
    assert cached.calls == 2


def test_codes_and_amounts_are_kept_apart_but_a_value_uses_the_rate(cached):
    assert "amount" not in cached.get("/cryptocurrencies").text
    assert "amount" in cached.get("/balances").text
    assert cached.calls == 2
    cached.get(RATE)
    assert cached.get("/fiat-values/BTC?currency=USD&amount=0.5").json()["fiat_value"] == "32425.13"
    assert cached.get("/fiat-values/btc?currency=usd&amount=2").json()["fiat_value"] == "129700.50"
    assert cached.calls == 3


def test_who_has_the_answer_gets_304_only_with_a_key_that_may_see_it(cached):
    first = cached.get("/balances")
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    for tags in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*", f'{tag},W/"x"'):
        answer = cached.get("/balances", If_None_Match=tags)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
        assert answer.headers["cache-control"] == "private, max-age=30"
        assert "hit" in answer.headers["cache-status"]
    assert cached.get("/balances", If_None_Match='"other"').status_code == 200
    with cached.outside.client(None) as anonymous:
        assert anonymous.get("/balances", headers={"If-None-Match": tag}).status_code == 401
    with cached.outside.client(READER_KEY) as reader:
        assert reader.get(RATE, headers={"If-None-Match": "*"}).status_code == 403


def test_the_tag_ignores_when_it_was_retrieved_and_nothing_else(cached):
    first = cached.get(RATE)
    cached.wait(61)
    second = cached.get(RATE)
    assert first.json()["retrieved_at"] != second.json()["retrieved_at"]
    assert first.headers["etag"] == second.headers["etag"]
    cached.wait(61)
    cached.simulator.scenario("inverse-rate")
    assert cached.get(RATE).headers["etag"] != first.headers["etag"]


def test_no_cache_forces_a_call_and_what_it_brings_is_kept(cached):
    cached.get(RATE)
    forced = cached.get(RATE, Cache_Control="max-age=0, No-Cache")
    assert forced.headers["cache-status"] == "quantapay-gateway; fwd=request; stored"
    assert cached.calls == 2
    assert "; hit; " in cached.get(RATE).headers["cache-status"]
    assert cached.calls == 2


def test_fifty_at_once_cost_one_call_and_say_so(cached):
    cached.simulator.scenario("slow", seconds=0.3)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: cached.get(RATE), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    statuses = [
        answer.headers["cache-status"].removeprefix("quantapay-gateway; ").split("; ttl")[0] for answer in answers
    ]
    assert statuses.count("fwd=miss; stored") == 1
    assert set(statuses) <= {"fwd=miss; stored", "fwd=miss; collapsed", "hit"}
    assert cached.calls == 1


def test_two_gateways_share_what_one_was_told(cached, cached_settings):
    first = cached.get(RATE)
    with running(cached_settings()) as other:
        answer = other.http.get(RATE)
    assert answer.content == first.content
    assert "; hit; " in answer.headers["cache-status"]
    assert cached.calls == 1


def test_another_account_is_never_answered_from_this_ones_balances(cached, cached_settings):
    cached.get("/balances")
    with running(cached_settings(quantapay_api_key="CANARY-another-merchants-key")) as other:
        assert other.http.get("/balances").json()["code"] == "upstream-credentials-rejected"


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("html-error", "fwd=stale; fwd-status=500; detail=stale-if-error"),
        ("garbage", "fwd=stale; fwd-status=200; detail=stale-if-error"),
        ("cut-off", "fwd=stale; fwd-status=200; detail=stale-if-error"),
        ("hang", "fwd=stale; detail=stale-if-error"),
        ("throttled-429", "fwd=stale; fwd-status=429; detail=stale-if-error"),
    ],
)
def test_a_stale_answer_stands_in_for_a_failure_for_five_minutes(cached, scenario, said):
    first = cached.get(RATE)
    cached.wait(60 + 290)
    cached.simulator.scenario(scenario)
    stale = cached.get(RATE)
    assert (stale.status_code, stale.content) == (200, first.content)
    assert stale.headers["cache-status"] == f"quantapay-gateway; {said}"
    assert int(stale.headers["age"]) in {350, 351}
    before = cached.calls
    at_once = cached.get(RATE)
    assert at_once.headers["cache-status"].startswith("quantapay-gateway; hit; ttl=-29")
    assert "; detail=stale-upstream-" in at_once.headers["cache-status"]
    assert cached.calls == before, "who has just failed is not asked again at once"
    cached.wait(11)
    assert cached.get(RATE).status_code in {502, 503, 504}


@pytest.mark.parametrize(
    ("scenario", "code"),
    [("invalid-api-key", "upstream-credentials-rejected"), ("function-missing", "function-not-supported")],
)
def test_nothing_stands_in_for_a_refusal(cached, scenario, code):
    cached.get(RATE)
    cached.wait(61)
    cached.simulator.scenario(scenario)
    assert cached.get(RATE).json()["code"] == code


def test_a_refused_pair_is_remembered_for_a_minute(cached):
    cached.simulator.scenario("unknown-slug")
    for _ in range(3):
        answer = cached.get(RATE)
        assert (answer.status_code, answer.json()["upstream_code"]) == (502, "simulated-unknown-reason")
        assert answer.headers["cache-control"] == "no-store"
    assert cached.get("/fiat-values/btc?currency=usd&amount=2").json()["upstream_code"] == "simulated-unknown-reason"
    assert cached.calls == 1
    assert cached.get("/exchange-rates/eth?currency=usd").status_code == 502
    assert cached.calls == 2
    cached.simulator.reset()
    cached.wait(61)
    assert cached.get(RATE).status_code == 200


def test_what_is_configured_as_never_cached_is_not(gateway, simulator):
    first = gateway.http.get("/balances")
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["cache-status"] == "quantapay-gateway; fwd=bypass"
    assert "etag" not in first.headers
    gateway.http.get("/balances")
    assert len(simulator.calls()) == 2


def test_equal_transactions_under_way_share_a_call_and_are_not_kept(cached):
    cached.simulator.scenario("slow", seconds=0.3)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: cached.get("/transactions?page=0"), range(20)))
    assert len({answer.content for answer in answers}) == 1
    assert cached.calls == 1
    assert answers[0].headers["cache-control"] == "no-store"
    cached.get("/transactions?page=0")
    assert cached.calls == 2


def test_lookups_are_counted_by_result(cached):
    cached.get(RATE)
    cached.get(RATE)
    count = cached.outside.metric
    labels = {"function": "get-exchange-rates"}
    assert count("gateway_cache_lookups_total", result="miss", **labels) == 1
    assert count("gateway_cache_lookups_total", result="hit", **labels) == 1
    assert count("gateway_cache_lookups_total", result="stale", **labels) == 0


def test_reads_go_on_without_redis(cached_settings, simulator, valkey_factory):
    server = valkey_factory()
    with running(cached_settings(redis_url=server.url), redis_deadline=DEADLINE) as outside:
        first = outside.http.get(RATE)
        server.kill()
        assert outside.http.get(RATE).content == first.content
        assert outside.http.get("/balances").status_code == 200
        assert outside.http.get("/balances").headers["cache-status"].startswith("quantapay-gateway; hit")
    assert len(simulator.calls()) == 2
