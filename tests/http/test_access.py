"""Who may call: keys, scopes and limits, in this order, before anything else of a request is looked at."""

import httpx
import pytest

from gateway.store.client import DEADLINE
from tests.plugins.gateway import ORDERS_KEY, READER_KEY, ROTATED_KEY, example_config, running


def get(gateway, *headers, path="/balances"):
    return httpx.get(gateway.url + path, headers=list(headers))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", ORDERS_KEY)],
        [("Authorization", f"Basic {ORDERS_KEY}")],
        [("Authorization", f"Bearer {ORDERS_KEY[:-1]}")],
        [("Authorization", f"Bearer {ORDERS_KEY}0")],
        [("Authorization", f"Bearer {ORDERS_KEY.lower()}")],
        [("Authorization", f"Bearer {ORDERS_KEY} x")],
        [("Authorization", f"Bearer {ORDERS_KEY}, Bearer {ORDERS_KEY}")],
        [("Authorization", "Bearer qsk_" + "0" * 43)],
        [("Authorization", "Bearer qpk_" + "0" * 43)],
        [("Authorization", "Bearer " + "x" * 8000)],
        [("Authorization", f"Bearer {ORDERS_KEY}"), ("Authorization", f"Bearer {ORDERS_KEY}")],
        [("X-Api-Key", ORDERS_KEY)],
    ],
)
def test_without_a_good_key_nothing_is_said(gateway, simulator, headers):
    answer = get(gateway, *headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "ratelimit" not in answer.headers
    assert simulator.calls() == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("key", [ORDERS_KEY, ROTATED_KEY])
def test_either_key_of_a_client_is_good(gateway, scheme, key):
    assert get(gateway, ("Authorization", f"{scheme} {key}")).status_code == 200


def test_a_key_in_the_query_is_no_key(gateway):
    assert httpx.get(f"{gateway.url}/balances?key={ORDERS_KEY}").status_code == 401


def test_the_key_is_asked_for_before_the_body_is_read(gateway):
    answer = httpx.post(f"{gateway.url}/checkout-sessions", content=b"{not json")
    assert answer.status_code == 401


def test_a_scope_that_is_missing_is_named(gateway, simulator):
    with gateway.client(READER_KEY) as reader:
        answer = reader.get("/credit-balance")
        assert answer.status_code == 200
        answer = reader.get("/exchange-rates/btc", params={"currency": "usd"})
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient-scope")
    assert "rates:read" in answer.json()["detail"]
    assert len(simulator.calls()) == 1


def test_every_keyed_answer_tells_the_limit_and_the_one_too_many_is_refused(gateway, simulator):
    with gateway.client(READER_KEY) as reader:
        answers = [reader.get("/balances") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"reader";q=3;w=3600'}
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    refused = answers[-1]
    assert refused.json()["code"] == "rate-limited"
    assert int(refused.headers["retry-after"]) == refused.json()["retry_after"] in range(1190, 1201)
    assert len(simulator.calls()) == 3
    assert gateway.metric("gateway_rate_limit_decisions_total", limit="client", decision="refused", store="redis") >= 1


def test_a_refusal_by_rate_comes_before_one_by_scope(gateway):
    with gateway.client(READER_KEY) as reader:
        statuses = [reader.get("/transactions").status_code for _ in range(4)]
    assert statuses == [403, 403, 403, 429]


def test_two_replicas_share_one_limit(gateway, settings_of):
    with (
        running(settings_of(), seen=gateway.seen) as other,
        gateway.client(READER_KEY) as here,
        other.client(READER_KEY) as there,
    ):
        statuses = [client.get("/balances").status_code for client in (here, there, here, there, here)]
    assert statuses == [200, 200, 200, 429, 429]


def test_without_redis_everything_is_still_answered_and_limited(gateway, settings_of, simulator, valkey_factory):
    valkey = valkey_factory()
    with (
        running(settings_of(redis_url=valkey.url), seen=gateway.seen, redis_deadline=DEADLINE) as outside,
        outside.client(READER_KEY) as reader,
    ):
        assert reader.get("/balances").status_code == 200
        valkey.pause()
        answers = [reader.get("/balances") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert min(answer.elapsed.total_seconds() for answer in answers) < 0.1, "none but the first waits"
        assert (
            outside.metric("gateway_rate_limit_decisions_total", limit="client", decision="allowed", store="local") == 3
        )
        assert httpx.get(f"{outside.url}/readyz").status_code == 200
        assert outside.ops("/livez").status_code == 200
        valkey.resume()


def test_a_new_gateway_yaml_counts_without_a_restart(gateway, settings_of, tmp_path):
    import time

    import yaml

    config = example_config()
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    with running(settings_of(path), seen=gateway.seen) as outside, outside.client(READER_KEY) as reader:
        assert reader.get("/balances").status_code == 200
        del config["clients"][1]
        path.write_text(yaml.safe_dump(config))
        deadline = time.monotonic() + 10
        while reader.get("/balances").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        path.write_text("clients: [nonsense")
        while outside.metric("gateway_config_reloads_total", result="failure") == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert outside.http.get("/balances").status_code == 200
        assert outside.metric("gateway_config_last_reload_successful") == 0
        assert outside.ops("/status").json()["configuration"] == {"clients": 3, "newest_in_force": False}
        assert httpx.get(f"{outside.url}/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/openapi.json", "/problems/not-found"])
def test_what_is_public_needs_no_key(gateway, path):
    assert httpx.get(gateway.url + path).status_code == 200
