"""From QuantaPay's webhook to a subscriber, through whole gateways on real sockets (interface §3.8)."""

import base64
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from gateway.store.client import DEADLINE
from tests.plugins.gateway import MARKER, WEBHOOK_SECRET, example_config, look_for_payments, running
from tests.plugins.processes import until
from tests.plugins.valkey import ValkeyServer

ORDER = {"price": "49.99", "currency": "usd", "order_id": "ORD-1", "metadata": {"cart": "7"}}
HOOK_SECRET = "whsec_" + base64.b64encode(f"{MARKER}-the-secret-of-the-subscriber".encode()).decode()


class Subscriber:
    """A subscriber's server, which verifies what it gets as its developers would."""

    def __init__(self):
        self.events = []
        """Pairs of webhook id and body."""
        subscriber = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                event = Webhook(HOOK_SECRET).verify(body, dict(self.headers))
                subscriber.events.append((self.headers["webhook-id"], event))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def types(self):
        return [event["type"] for _, event in self.events]

    def wait_for(self, count):
        until(lambda: len(self.events) >= count, f"{count} events arrive")
        return self.events


@pytest.fixture(scope="module")
def _module_subscriber():
    found = Subscriber()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def config(subscriber, **more):
    orders = {"id": "orders", "url": subscriber.url, "secret": HOOK_SECRET, "events": ["*"]}
    return {**example_config(), "subscribers": [orders], **more}


@pytest.fixture(scope="module")
def _module_server(tmp_path_factory):
    """A Valkey of its own: other gateways of this run would find payments too, and tell nobody."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def _module_gateway(_module_subscriber, _module_server, _session_gateway, settings_of, log_lines):
    settings = settings_of(config(_module_subscriber), redis_url=_module_server.url)
    with running(settings, seen=_session_gateway.seen) as outside:
        yield outside


@pytest.fixture
def server(_module_server):
    _module_server.flush()
    return _module_server


@pytest.fixture
def subscriber(_module_subscriber):
    _module_subscriber.events.clear()
    return _module_subscriber


@pytest.fixture
def outside(_module_gateway, server, simulator, subscriber):
    return _module_gateway


def pay(simulator, session, **fields):
    """Have QuantaPay know a payment of a session, as the payer made it; return its row."""
    row = {
        "amount_fiat": session["price"],
        "currency": session["currency"],
        "external_reference": session["order_id"],
        "creation_time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }
    answer = httpx.post(f"{simulator.url}/simulator/transactions", json={**row, **fields})
    return answer.raise_for_status().json()


def tell(outside, row, *, key=WEBHOOK_SECRET):
    return httpx.post(f"{outside.url}/webhooks/quantapay", json={"key": key, "transaction": row})


def order(outside, **fields):
    answer = outside.http.post("/checkout-sessions", json={**ORDER, **fields})
    assert answer.status_code == 201
    return answer.json()


def status(outside, session):
    return outside.http.get(f"/checkout-sessions/{session['id']}").json()["status"]


def test_a_webhook_turns_a_session_paid_and_its_event_is_delivered_signed(outside, simulator, subscriber):
    before = outside.metric("gateway_payment_events_total", type="payment.completed")
    session = order(outside)
    row = pay(simulator, session)
    answer = tell(outside, row)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    [(webhook_id, event)] = subscriber.wait_for(1)
    assert webhook_id.startswith("msg_")
    assert event["type"] == "payment.completed"
    assert set(event) == {"type", "timestamp", "data"}
    assert set(event["data"]) == {"transaction", "checkout_session", "confirmed"}
    assert event["data"]["confirmed"] is True
    assert event["data"]["transaction"] == outside.http.get(f"/transactions/{row['id']}").json()
    assert event["data"]["checkout_session"] == outside.http.get(f"/checkout-sessions/{session['id']}").json()
    assert event["data"]["checkout_session"]["status"] == "paid"
    assert event["data"]["checkout_session"]["metadata"] == {"cart": "7"}
    assert outside.metric("gateway_payment_events_total", type="payment.completed") == before + 1
    until(lambda: outside.ops("/status").json()["backlog"].get("orders", {}).get("waiting") == 0, "nothing waits")


@pytest.mark.parametrize("first", ["webhook", "reconciliation"])
def test_webhook_and_reconciliation_tell_of_a_payment_once(outside, simulator, subscriber, server, first):
    session = order(outside)
    row = pay(simulator, session)
    for way in ("webhook", "reconciliation") if first == "webhook" else ("reconciliation", "webhook"):
        if way == "webhook":
            assert tell(outside, row).status_code == 200
        else:
            look_for_payments(server)
        until(lambda: status(outside, session) == "paid", "it is paid")
        subscriber.wait_for(1)
    other = order(outside, order_id="ORD-2")
    tell(outside, pay(simulator, other))
    subscriber.wait_for(2)
    assert [event["data"]["checkout_session"]["order_id"] for _, event in subscriber.events] == ["ORD-1", "ORD-2"]
    assert subscriber.types() == ["payment.completed"] * 2


ATTACKS = {
    "price edited down": ({"amount_fiat": "0.01"}, "payment.mismatched", "amount", "needs_review"),
    "another currency": ({"currency": "eur"}, "payment.mismatched", "currency", "needs_review"),
    "no currency": ({"currency": ""}, "payment.mismatched", "currency", "needs_review"),
    "reference of nobody": ({"external_reference": "ORD-10"}, "payment.unmatched", "no-session", "open"),
    "reference in lower case": ({"external_reference": "ord-1"}, "payment.unmatched", "no-session", "open"),
    "empty reference": ({"external_reference": ""}, "payment.unmatched", "no-reference", "open"),
    "null reference": ({"external_reference": None}, "payment.unmatched", "no-reference", "open"),
    "too little": ({"status": "X"}, "payment.underpaid", None, "underpaid"),
    "given back": ({"status": "R"}, "payment.refunded", None, "refunded"),
    "more than asked": ({"amount_fiat": "50"}, "payment.completed", None, "paid"),
    "the same amount, written longer": ({"amount_fiat": "49.99000000"}, "payment.completed", None, "paid"),
    "the currency in capitals": ({"currency": "USD"}, "payment.completed", None, "paid"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_payer_may_have_edited_is_never_taken_for_the_price(outside, simulator, subscriber, name):
    fields, event_type, reason, becomes = ATTACKS[name]
    session = order(outside)
    assert tell(outside, pay(simulator, session, **fields)).status_code == 200
    [(_, event)] = subscriber.wait_for(1)
    assert (event["type"], event["data"].get("reason")) == (event_type, reason)
    assert status(outside, session) == becomes
    is_its = event["data"]["checkout_session"] is not None
    assert is_its == (event_type != "payment.unmatched")


def test_a_second_payment_of_a_paid_order_is_a_duplicate(outside, simulator, subscriber):
    session = order(outside)
    for _ in range(2):
        tell(outside, pay(simulator, session))
    subscriber.wait_for(2)
    assert sorted(subscriber.types()) == ["payment.completed", "payment.duplicate"]
    assert len({webhook_id for webhook_id, _ in subscriber.events}) == 2


def test_a_payment_that_changes_after_it_was_told_of_is_a_conflict(outside, simulator, subscriber):
    session = order(outside)
    row = pay(simulator, session, amount_fiat="1.00")
    tell(outside, row)
    subscriber.wait_for(1)
    changed = httpx.post(f"{simulator.url}/simulator/transactions/{row['id']}", json={"amount_fiat": "49.99"}).json()
    tell(outside, changed)
    subscriber.wait_for(2)
    assert [event["data"].get("reason") for _, event in subscriber.events] == ["amount", "conflict"]
    assert status(outside, session) == "needs_review"


def test_an_invented_payment_is_held_and_a_genuine_one_still_pays(outside, simulator, subscriber, server):
    session = order(outside)
    invented = {**pay(simulator, session, external_reference="elsewhere"), "id": "77"}
    invented["external_reference"] = "ORD-1"
    assert tell(outside, invented).status_code == 200
    with server.client() as redis:
        until(lambda: b"denied" in b"".join(redis.hvals("qpg:{events}:inbox:state")), "it is held")
        assert status(outside, session) == "open"
        assert subscriber.events == []
        tell(outside, pay(simulator, session))
        subscriber.wait_for(1)
        assert subscriber.types() == ["payment.completed"]
        assert redis.zcard("qpg:{events}:inbox:due") == 1


def test_where_the_function_does_not_exist_a_webhook_counts_unless_confirmation_is_required(
    settings_of, simulator, subscriber, valkey_factory
):
    server = valkey_factory()
    simulator.scenario("function-missing", function="get-transaction")
    with running(settings_of(config(subscriber), redis_url=server.url)) as outside:
        tell(outside, pay(simulator, order(outside)))
        [(_, event)] = subscriber.wait_for(1)
        assert (event["type"], event["data"]["confirmed"]) == ("payment.completed", False)
    with running(settings_of(config(subscriber, webhooks={"confirm": "required"}), redis_url=server.url)) as outside:
        session = order(outside, order_id="ORD-2")
        tell(outside, pay(simulator, session))
        with server.client() as redis:
            until(lambda: b"denied" in b"".join(redis.hvals("qpg:{events}:inbox:state")), "it is held")
        assert status(outside, session) == "open"


def test_a_webhook_while_redis_is_away_is_refused_and_the_payment_found_later(
    settings_of, simulator, subscriber, valkey_factory
):
    server = valkey_factory()
    settings = settings_of(config(subscriber), redis_url=server.url)
    with running(settings, redis_deadline=DEADLINE) as outside:
        session = order(outside)
        row = pay(simulator, session)
        server.pause()
        answer = tell(outside, row)
        assert (answer.status_code, answer.json()["code"]) == (503, "storage-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        server.resume()
        [(_, event)] = subscriber.wait_for(1)
        assert event["type"] == "payment.completed"


def test_the_stored_webhook_holds_no_key(outside, simulator, server):
    simulator.scenario("500-json", function="get-transaction")
    row = pay(simulator, order(outside))
    assert tell(outside, {**row, "future": {"key": WEBHOOK_SECRET}}).status_code == 200
    with server.client() as redis:
        stored = b"".join(redis.hvals("qpg:{events}:inbox:messages"))
        assert json.loads(stored)["id"] == row["id"]
        assert MARKER.encode() not in b"".join(redis.dump(key) or b"" for key in redis.keys("qpg:{events}:*"))
