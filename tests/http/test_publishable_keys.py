"""What a browser costs and may ask: addresses, clients, pairs of coin and currency (interface §2.1–2.3)."""

import pytest

from tests.plugins.gateway import QUOTE_SECRET, SHOP, SHOP_KEY, example_config, front_end, quote, running

RATE = "/exchange-rates/btc?currency=usd"


def with_front_end(**changes):
    config = example_config()
    config["clients"][2] = front_end("storefront", SHOP_KEY, SHOP, QUOTE_SECRET, **changes)
    return config


@pytest.fixture
def limited(settings_of, simulator, valkey):
    """Runs a gateway behind a proxy, with few requests an address and a client."""

    def run(*, each, all_, **settings):
        config = with_front_end(rate_limit_per_ip=f"{each}/hour", rate_limit=f"{all_}/hour")
        return running(settings_of(config, trusted_proxies="127.0.0.0/8", **settings))

    return run


def ask(outside, address, path=RATE):
    return outside.browser.get(path, headers={"X-Forwarded-For": address}).status_code


def test_one_visitor_cannot_spend_the_shops_share(limited):
    with limited(each=3, all_=6) as outside:
        assert [ask(outside, "192.0.2.1") for _ in range(6)] == [200] * 3 + [429] * 3
        # Refused requests cost the shop nothing: three more are left for others.
        assert [ask(outside, f"192.0.2.{n}") for n in range(2, 7)] == [200] * 3 + [429] * 2
        refused = outside.browser.get(RATE, headers={"X-Forwarded-For": "192.0.2.1"})
        assert refused.json()["code"] == "rate-limited"
        assert int(refused.headers["retry-after"]) >= 1
        assert "ratelimit" not in refused.headers, "how busy the shop is concerns its servers only"
        assert refused.headers["access-control-allow-origin"] == SHOP
        assert outside.metric("gateway_rate_limit_decisions_total", limit="ip", decision="refused", store="redis") >= 3


def test_ipv6_counts_by_64_bits(limited):
    with limited(each=2, all_=100) as outside:
        assert [ask(outside, f"2001:db8:0:1::{n}") for n in range(4)] == [200, 200, 429, 429]
        assert ask(outside, "2001:db8:0:2::1") == 200


def test_only_what_trusted_proxies_say_is_believed(limited):
    with limited(each=1, all_=100) as outside:
        assert ask(outside, "192.0.2.1") == 200
        for forged in ("10.9.9.9, 192.0.2.1", "nonsense, 192.0.2.1", "192.0.2.7, 192.0.2.1, 127.0.0.9"):
            assert ask(outside, forged) == 429, forged
    with limited(each=1, all_=100) as outside:
        assert ask(outside, "nonsense") == 429 or ask(outside, "other nonsense") == 429, "it is the proxy's own address"


def test_without_trusted_proxies_the_header_means_nothing(settings_of, simulator, valkey):
    with running(settings_of(with_front_end(rate_limit_per_ip="1/hour"))) as outside:
        assert [ask(outside, f"192.0.2.{n}") for n in range(3)] == [200, 429, 429]


def test_a_refused_quote_costs_the_address_alone(limited):
    with limited(each=3, all_=2) as outside:
        forged = {**quote(), "price": "0.01"}
        headers = {"X-Forwarded-For": "192.0.2.1"}
        answers = [outside.browser.post("/checkout-sessions", json=forged, headers=headers) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [403] * 3 + [429] * 2
        headers = {"X-Forwarded-For": "192.0.2.2"}
        unreadable = [outside.browser.post("/checkout-sessions", content=b"{", headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in unreadable] == [415] * 3 + [429]
        headers = {"X-Forwarded-For": "192.0.2.5"}
        odd = [outside.browser.post("/checkout-sessions?x=1", json=quote(), headers=headers) for _ in range(4)]
        assert [answer.status_code for answer in odd] == [422] * 3 + [429]
        headers = {"X-Forwarded-For": "192.0.2.3"}
        assert outside.browser.post("/checkout-sessions", json=quote(), headers=headers).status_code == 201
        assert outside.browser.post("/checkout-sessions", json=quote(), headers=headers).status_code == 200
        headers = {"X-Forwarded-For": "192.0.2.4"}
        assert outside.browser.post("/checkout-sessions", json=quote(), headers=headers).status_code == 429


def test_a_refused_token_costs_the_address_alone(limited, simulator):
    with limited(each=2, all_=2) as outside:
        with outside.client("cst_" + "x" * 43, **{"X-Forwarded-For": "192.0.2.1"}) as guesser:
            statuses = [guesser.get(f"/checkout-sessions/cs_{number:032x}").status_code for number in range(75)]
        assert statuses[:60] == [404] * 60
        assert 429 in statuses
        assert [ask(outside, "192.0.2.1"), ask(outside, "192.0.2.1")] == [200, 200]


def test_rates_are_for_the_accounts_coins_in_the_clients_currencies(gateway, simulator):
    assert gateway.browser.get("/exchange-rates/btc?currency=EUR").status_code == 200
    assert gateway.browser.get("/fiat-values/btc?currency=usd&amount=0.5").status_code == 200
    assert gateway.browser.get("/cryptocurrencies").status_code == 200
    asked = len([call for call in simulator.calls() if call["function"] == "get-exchange-rates"])
    for path in (
        "/exchange-rates/btc?currency=gbp",
        "/fiat-values/btc?currency=gbp&amount=1",
        "/exchange-rates/nosuchcoin?currency=usd",
        "/fiat-values/nosuchcoin?currency=usd&amount=1",
    ):
        answer = gateway.browser.get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient-scope"), path
    assert len([call for call in simulator.calls() if call["function"] == "get-exchange-rates"]) == asked == 2


def test_a_browser_cannot_force_a_call(settings_of, simulator, valkey):
    config = example_config()
    del config["cache"]
    with running(settings_of(config)) as outside:
        for _ in range(3):
            assert outside.browser.get(RATE, headers={"Cache-Control": "no-cache"}).status_code == 200
        functions = [call["function"] for call in simulator.calls()]
        assert sorted(functions) == ["get-balances", "get-exchange-rates"]
        assert outside.http.get(RATE, headers={"Cache-Control": "no-cache"}).status_code == 200
        assert len(simulator.calls()) == 3


def test_a_key_that_leaves_the_configuration_is_refused_and_so_are_its_origins(
    settings_of, simulator, valkey, tmp_path
):
    import yaml

    from tests.plugins.processes import until

    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(example_config()))
    with running(settings_of(path)) as outside:
        assert outside.browser.get(RATE).status_code == 200
        config = example_config()
        del config["clients"][2]
        path.write_text(yaml.safe_dump(config))
        until(lambda: outside.browser.get(RATE).status_code == 401, "the client is gone")
        assert "access-control-allow-origin" not in outside.browser.get(RATE).headers
