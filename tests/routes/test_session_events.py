"""A session as it changes: server-sent events over whole gateways (interface §3.5)."""

import json
from contextlib import contextmanager

import httpx
import pytest
import yaml

from tests.plugins.gateway import (
    ORDERS_KEY,
    QUOTE_SECRET,
    SHOP,
    SHOP_KEY,
    example_config,
    front_end,
    look_for_payments,
    quote,
    running,
)
from tests.plugins.processes import until

ORDER = {"price": "49.99", "currency": "usd", "order_id": "ORD-1"}


def pay(session, valkey):
    httpx.post(session["payment_url"], data={"action": "pay"}).raise_for_status()
    look_for_payments(valkey)


@contextmanager
def stream(outside, session_id, key=ORDERS_KEY, query="", **headers):
    auth = {"Authorization": f"Bearer {key}"} if key else {}
    path = f"{outside.url}/checkout-sessions/{session_id}/events{query}"
    with httpx.Client(timeout=30) as http, http.stream("GET", path, headers={**auth, **headers}) as answer:
        yield answer


def events(answer):
    """Yield each event as name, id and data; comments and `retry:` are passed over."""
    event = {}
    for line in answer.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif not line and "data" in event:
            yield event["event"], event["id"], json.loads(event["data"])
            event = {}


def test_the_current_session_comes_first_then_each_change_until_it_is_paid(gateway, valkey):
    session = gateway.http.post("/checkout-sessions", json=ORDER).json()
    with stream(gateway, session["id"]) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        found = events(answer)
        assert next(found) == ("session", "1", session)
        assert gateway.metric("gateway_event_streams") == 1
        pay(session, valkey)
        *_, (name, version, last) = list(found)
    assert (name, last["status"]) == ("session", "paid")
    assert int(version) > 1
    until(lambda: gateway.metric("gateway_event_streams") == 0, "the stream is over")
    with stream(gateway, session["id"], **{"Last-Event-ID": version}) as answer:
        assert answer.status_code == 204
    with stream(gateway, session["id"], **{"Last-Event-ID": "1"}) as answer:
        assert [event[2]["status"] for event in events(answer)] == ["paid"]


def test_it_works_across_replicas_and_for_a_browser_by_header_or_by_address(gateway, settings_of, valkey):
    session = gateway.browser.post("/checkout-sessions", json=quote()).json()
    token = session["client_token"]
    with (
        running(settings_of(), seen=gateway.seen) as other,
        stream(other, session["id"], token, Origin=SHOP) as by_header,
        stream(other, session["id"], None, f"?token={token}", Origin=SHOP) as by_address,
    ):
        assert by_header.headers["access-control-allow-origin"] == SHOP
        pay(session, valkey)
        for answer in (by_header, by_address):
            *_, (_, _, last) = list(events(answer))
            assert last["status"] == "paid"
            assert set(last["transaction"]) == {"id", "hash", "status", "amount", "cryptocurrency"}
            assert "metadata" not in last
            assert "client_token" not in last


def test_a_token_in_the_address_is_in_no_log_line(gateway, log_lines):
    session = gateway.browser.post("/checkout-sessions", json=quote()).json()
    token = session["client_token"]
    with stream(gateway, session["id"], None, f"?token={token}") as answer:
        next(events(answer))
    with stream(gateway, session["id"], None, f"?token={token[:-1]}{'A' if token[-1] != 'A' else 'E'}") as answer:
        assert answer.status_code == 404
    until(lambda: log_lines.getvalue().count("/checkout-sessions/{id}/events") >= 2, "both are logged")
    assert token[:-1] not in log_lines.getvalue()


def test_wrong_tokens_and_foreign_sessions_are_404(gateway):
    session = gateway.browser.post("/checkout-sessions", json=quote()).json()
    for key, query in ((ORDERS_KEY, ""), ("cst_" + "x" * 43, ""), (None, "?token=cst_" + "x" * 43)):
        with stream(gateway, session["id"], key, query) as answer:
            assert answer.status_code == 404
    for query in ("?token=x&token=y", "?tokens=x"):
        with stream(gateway, session["id"], session["client_token"], query) as answer:
            assert answer.status_code == 422


def test_head_does_not_hang(gateway):
    session = gateway.http.post("/checkout-sessions", json=ORDER).json()
    answer = gateway.http.head(f"/checkout-sessions/{session['id']}/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(("limit", "most"), [("client", 3), ("session", 5)])
def test_streams_are_counted_over_all_replicas(settings_of, simulator, valkey, limit, most):
    config = example_config()
    streams = 3 if limit == "client" else 100
    config["clients"][2] = front_end("storefront", SHOP_KEY, SHOP, QUOTE_SECRET, max_streams=streams)
    from contextlib import ExitStack

    with running(settings_of(config)) as one, running(settings_of(config)) as other, ExitStack() as stack:
        session = one.browser.post("/checkout-sessions", json=quote()).json()
        token = session["client_token"]
        answers = [stack.enter_context(stream((one, other)[n % 2], session["id"], token)) for n in range(most)]
        assert [answer.status_code for answer in answers] == [200] * most
        with stream(other, session["id"], token) as answer:
            answer.read()
            assert (answer.status_code, answer.json()["code"]) == (429, "too-many-streams")
            assert int(answer.headers["retry-after"]) >= 1
        answers[0].close()

        def opens_again():
            with stream(other, session["id"], token) as again:
                return again.status_code == 200

        until(opens_again, "a place is free again")


def test_a_drain_ends_the_stream_at_once_with_a_hint_when_to_come_back(settings_of, simulator, valkey):
    with running(settings_of()) as outside:
        session = outside.http.post("/checkout-sessions", json=ORDER).json()
        with stream(outside, session["id"]) as answer:
            lines = answer.iter_lines()
            assert next(lines) != ""
            outside.portal.call(outside.inside.drain)
            rest = list(lines)
        assert any(line.startswith("retry: ") for line in rest)


@pytest.mark.parametrize("leaves", ["the client", "the key", "the scope", "the quote secret"])
def test_who_may_not_look_any_more_sees_no_further_change(settings_of, simulator, valkey, tmp_path, leaves):
    path = tmp_path / "gateway.yaml"
    config = example_config()
    path.write_text(yaml.safe_dump(config))
    with running(settings_of(path)) as outside:
        by_key = leaves in {"the key", "the scope"}
        session = (
            outside.http.post("/checkout-sessions", json=ORDER)
            if by_key
            else outside.browser.post("/checkout-sessions", json=quote())
        ).json()
        with stream(outside, session["id"], ORDERS_KEY if by_key else session["client_token"]) as answer:
            found = events(answer)
            assert next(found)[2]["status"] == "open"
            match leaves:
                case "the client":
                    del config["clients"][2]
                case "the key":
                    config["clients"][0]["key_sha256"] = "0" * 64
                case "the scope":
                    config["clients"][0]["scopes"] = ["checkout-sessions:write"]
                case "the quote secret":
                    config["clients"][2]["quote_secret"] = "CANARY-another-secret-for-the-storefront"
            path.write_text(yaml.safe_dump(config))
            outside.portal.call(outside.inside.config.reload)
            assert outside.metric("gateway_config_reloads_total", result="success") == 1
            pay(session, valkey)
            assert list(found) == []
