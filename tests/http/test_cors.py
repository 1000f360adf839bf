"""Which pages may call, and read what is answered (interface §4, §5)."""

import pytest

from tests.plugins.gateway import MARKET, MARKET_KEY, ORDERS_KEY, SHOP, SHOP_KEY, quote

EXPOSED = "Location, Retry-After, X-Request-Id, ETag, Age, Cache-Status"
RATE = "/exchange-rates/btc?currency=usd"


def preflight(gateway, origin, path="/checkout-sessions", method="POST"):
    with gateway.client(None) as anybody:
        return anybody.options(
            path,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )


def get(gateway, path, origin=None, key=SHOP_KEY, method="GET"):
    headers = {} if origin is None else {"Origin": origin}
    with gateway.client(key, **headers) as client:
        return client.request(method, path)


@pytest.mark.parametrize("origin", [SHOP, MARKET])
@pytest.mark.parametrize("path", ["/checkout-sessions", "/checkout-sessions/cs_1/events", "/no/such/path"])
def test_a_preflight_is_answered_without_a_key_for_every_clients_origins(gateway, origin, path):
    answer = preflight(gateway, origin, path)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert answer.headers["access-control-max-age"] == "600"
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert set(allowed) == {
        "authorization", "content-type", "if-none-match", "last-event-id", "x-request-id", "traceparent",
    }  # fmt: skip
    assert {"Origin", "Authorization"} <= set(answer.headers["vary"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers


FOREIGN = [
    "null", "https://evil.example", "https://shop.example.evil.example", "https://evilshop.example", "http://shop.example",
    "https://shop.example:8443", "https://shop.example/", "https://SHOP.example", "https://shop.example@evil.example", "",
    "https://sub.shop.example", "shop.example",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
def test_no_other_origin_gets_anything(gateway, simulator, origin):
    refused = preflight(gateway, origin)
    assert (refused.status_code, refused.json()["code"]) == (403, "origin-not-allowed")
    assert refused.headers["content-type"] == "application/problem+json"
    with gateway.client(SHOP_KEY, Origin=origin) as page:
        created, read = page.post("/checkout-sessions", json=quote()), page.get(RATE)
    for answer in (refused, created, read):
        assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")
        assert "access-control-allow-origin" not in answer.headers
        assert "Origin" in answer.headers["vary"]
    assert simulator.calls() == []


def test_without_an_origin_a_publishable_key_may_only_read(gateway):
    assert get(gateway, RATE).status_code == 200
    assert get(gateway, RATE, method="HEAD").status_code == 200
    with gateway.client(SHOP_KEY) as script:
        answer = script.post("/checkout-sessions", json=quote())
    assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")


def test_two_origins_are_none(gateway):
    with gateway.client(SHOP_KEY) as client:
        answer = client.get(RATE, headers=[("Origin", SHOP), ("Origin", MARKET)])
    assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")
    assert "access-control-allow-origin" not in answer.headers


def test_another_clients_origin_is_foreign(gateway):
    answer = get(gateway, RATE, MARKET, SHOP_KEY)
    assert answer.json()["code"] == "origin-not-allowed"
    assert "access-control-allow-origin" not in answer.headers
    assert get(gateway, RATE, MARKET, MARKET_KEY).headers["access-control-allow-origin"] == MARKET


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (RATE, SHOP_KEY, 200),
        (RATE, None, 401),
        (RATE, "qpk_" + "x" * 43, 401),
        ("/exchange-rates/btc", SHOP_KEY, 422),
        ("/exchange-rates/btc?currency=gbp", SHOP_KEY, 403),
        ("/no/such/path", SHOP_KEY, 404),
        ("/no/such/path", None, 404),
        ("/checkout-sessions", SHOP_KEY, 405),
        ("/checkout-sessions/cs_1", "cst_" + "x" * 43, 404),
        ("/livez", None, 200),
    ],
)
def test_a_page_can_read_every_answer_errors_included(gateway, path, key, status):
    answer = get(gateway, path, SHOP, key)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["access-control-expose-headers"] == EXPOSED
    assert answer.headers["vary"] == "Origin, Authorization"
    assert "access-control-allow-credentials" not in answer.headers


def test_no_page_can_read_what_a_secret_key_gets(gateway):
    answer = get(gateway, "/balances", SHOP, ORDERS_KEY)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_options_without_preflight_is_a_method_like_others(gateway):
    with gateway.client(SHOP_KEY, Origin=SHOP) as page:
        answer = page.options("/checkout-sessions")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")


def test_a_bug_can_be_read_too(gateway, monkeypatch):
    def broken(*_args, **_more):
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr("gateway.routes.rates._check_pair", broken)
    answer = get(gateway, RATE, SHOP)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert answer.headers["access-control-allow-origin"] == SHOP
