"""Webhooks as QuantaPay sends them: to a real socket, once, and otherwise only when it is told to."""

import http.server
import json
import socket
import threading
from dataclasses import dataclass, field

import httpx
import pytest

from gateway.sandbox.simulator import running_simulator
from gateway.sandbox.simulator import webhooks as module
from tests.plugins.processes import until

SECRET = "your-webhook-secret-key"
APRIL = [
    "id", "biz_id", "title", "description", "from", "to", "hash", "amount", "amount_fiat", "cryptocurrency",
    "currency", "external_reference", "creation_time", "status", "webhook", "vat", "billing", "checkout_id", "type",
]  # fmt: skip
MARCH = [name for name in APRIL if name not in {"biz_id", "type"}]


@dataclass
class Receiver:
    """What webhooks are sent to. It answers with `status`, and can be slow."""

    url: str = ""
    status: int = 200
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def transactions(self):
        return [json.loads(body)["transaction"] for _, _, body in self.requests]


@pytest.fixture
def receiver():
    receiver = Receiver()
    receiver.may_answer.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((self.path, dict(self.headers), body))
            receiver.may_answer.wait(30)
            self.send_response(receiver.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook?of=shop"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield receiver
        receiver.may_answer.set()
        server.shutdown()
        serving.join()


@pytest.fixture
def start(options, clock, receiver):
    """Run a simulator that sends to the receiver, and return a client of its control."""
    opened = []

    def run(**changes):
        simulator = running_simulator(options(**{"webhook_url": receiver.url, **changes}), clock=clock)
        http_client = httpx.Client(base_url=f"{simulator.__enter__()}/simulator", timeout=20)
        opened.append((simulator, http_client))
        return http_client

    yield run
    for simulator, http_client in opened:
        http_client.close()
        simulator.__exit__(None, None, None)


def sent(control, number):
    """Wait until so many attempts are over, and return them."""
    until(lambda: len(control.get("/webhooks").json()["webhooks"]) >= number, f"{number} webhooks are sent")
    return control.get("/webhooks").json()["webhooks"]


def told(attempt):
    return attempt["transaction"]["id"], attempt["transaction"]["status"]


def insert(control, **row):
    assert control.post("/transactions", json=row).status_code == 201


def test_a_payment_is_told_of_once_when_it_is_completed(start, receiver, clock):
    control = start()
    root = httpx.URL(str(control.base_url)).join("/")
    form = {"function": "create-checkout-session", "api-key": "sim-key", "price": "49.99", "currency": "usd",
            "order_id": "A/1"}  # fmt: skip
    page = httpx.post(root.join("/api.php"), data=form).json()["response"]["payment_url"]
    httpx.post(page, data={"action": "pay"})
    insert(control, status="P")
    clock.advance(3)
    [attempt] = sent(control, 1)
    [(path, headers, body)] = receiver.requests
    assert path == "/hook?of=shop"
    assert headers["Content-Type"] == "application/json"
    assert list(json.loads(body)) == ["key", "transaction"]
    assert json.loads(body)["key"] == SECRET
    [row] = receiver.transactions()
    assert list(row) == APRIL
    assert (row["id"], row["status"], row["external_reference"]) == ("1", "C", "A/1")
    assert b'"A\\/1"' in body
    assert attempt == {"transaction": row, "sent_at": "2023-11-14T22:13:23Z", "status": 200, "error": None}
    assert SECRET not in control.get("/webhooks").text
    # Whatever comes later is told of later, so this row was not told of twice.
    insert(control)
    assert [told(item) for item in sent(control, 2)] == [("1", "C"), ("3", "C")]


def test_only_completed_payments_are_told_of_unless_others_are_wanted(start):
    control = start()
    for status in ("X", "R", "P", "C"):
        insert(control, status=status)
    assert [told(item) for item in sent(control, 1)] == [("4", "C")]
    control.post("/transactions/4", json={"status": "C"})  # it is already
    control.post("/transactions/4", json={"title": "other"})
    control.post("/transactions/3", json={"status": "C"})
    assert [told(item) for item in sent(control, 2)[1:]] == [("3", "C")]
    control.post("/transactions/4", json={"status": "R"})
    control.put("/webhooks", json={"statuses": ["C", "X", "R"]})
    control.post("/transactions/1", json={"status": "R"})
    assert [told(item) for item in sent(control, 3)[2:]] == [("1", "R")]


def test_the_form_of_march(start, receiver):
    control = start(webhook_form="march")
    insert(control, amount_fiat="49.99000000", external_reference="A-1", title="")
    [attempt] = sent(control, 1)
    [row] = receiver.transactions()
    assert row == attempt["transaction"]
    assert list(row) == MARCH
    assert {name: row[name] for name in ("title", "amount_fiat", "external_reference", "vat", "checkout_id")} == {
        "title": "A-1",
        "amount_fiat": "49.99",
        "external_reference": "",
        "vat": "",
        "checkout_id": "cs-cs_00000000000000000000",
    }


@pytest.mark.parametrize(
    ("april", "march"), [("25.00000000", "25.00"), ("1.23400000", "1.234"), ("7", "7"), ("100", "100"), ("1.5", "1.5")]
)
def test_march_has_no_zeros_after_the_second_decimal(april, march):
    assert module._as_of_march({"amount_fiat": april})["amount_fiat"] == march


@pytest.mark.parametrize("status", [500, 302, 404])
def test_an_answer_is_noted_and_neither_followed_nor_tried_again(start, receiver, status):
    receiver.status = status
    control = start()
    insert(control)
    assert sent(control, 1)[0]["status"] == status
    insert(control)
    assert [item["transaction"]["id"] for item in sent(control, 2)] == ["1", "2"]
    assert {path for path, _, _ in receiver.requests} == {"/hook?of=shop"}


def test_retries_are_made_when_they_are_switched_on_until_one_is_taken(start, receiver, clock):
    receiver.status = 500
    control = start(webhook_retries=2)
    insert(control)
    assert [item["status"] for item in sent(control, 3)] == [500, 500, 500]
    assert clock.slept == [module.RETRY_AFTER] * 2
    receiver.status = 204
    insert(control)
    assert sent(control, 4)[3]["status"] == 204
    insert(control)
    assert [item["transaction"]["id"] for item in sent(control, 5)[3:]] == ["2", "3"]


def test_nobody_there_is_noted(start):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    control = start(webhook_url=f"http://127.0.0.1:{port}/")
    insert(control)
    [attempt] = sent(control, 1)
    assert (attempt["status"], attempt["error"]) == (None, "ConnectError")


def test_an_answer_is_waited_for_so_long_and_holds_no_other_webhook_up(start, receiver, monkeypatch):
    monkeypatch.setattr(module, "TOTAL_SECONDS", 0.3)
    receiver.may_answer.clear()
    control = start()
    insert(control)
    insert(control)
    assert {item["error"] for item in sent(control, 2)} <= {"TimeoutError", "ReadTimeout"}
    assert {row["id"] for row in receiver.transactions()} == {"1", "2"}


def test_what_happens_while_webhooks_are_off_is_lost(start, receiver):
    control = start(webhook_url=None)
    insert(control)
    no_url = control.post("/webhooks", json={"transaction_id": 1})
    assert (no_url.status_code, no_url.json()) == (409, {"error": "there is no webhook URL"})
    control.put("/webhooks", json={"url": receiver.url, "statuses": []})
    insert(control)
    assert control.post("/webhooks", json={"transaction_id": 2}).json()["status"] == 200
    control.put("/webhooks", json={"url": receiver.url})
    insert(control)
    assert [item["transaction"]["id"] for item in sent(control, 2)] == ["2", "3"]


def test_a_webhook_can_be_sent_again_and_forged(start, receiver):
    control = start(webhook_statuses=())
    insert(control, external_reference="A-1")
    again = control.post("/webhooks", json={"transaction_id": 1})
    forged = control.post("/webhooks", json={"transaction_id": 1, "id": "99", "amount_fiat": 0.01, "more": {"a": [1]}})
    invented = control.post("/webhooks", json={"id": "7", "status": "C"})
    first, second, third = receiver.transactions()
    assert [answer.json()["transaction"] for answer in (again, forged, invented)] == [first, second, third]
    assert second == {**first, "id": "99", "amount_fiat": 0.01, "more": {"a": [1]}}
    assert third == {"id": "7", "status": "C"}
    assert len(control.get("/webhooks").json()["webhooks"]) == 3


def test_a_row_that_does_not_exist_is_not_sent(start, receiver):
    control = start()
    assert control.post("/webhooks", json={"transaction_id": 5}).status_code == 404
    assert receiver.requests == []


@pytest.mark.parametrize("body", ["", "[]", "{", '{"transaction_id": "1"}', '{"transaction_id": 1.5}'])
async def test_a_bad_demand_is_refused(client, body):
    assert (await client.http.post("/simulator/webhooks", content=body)).status_code == 400


@pytest.mark.parametrize(
    "settings",
    [{"url": "ftp://shop.test"}, {"url": "nowhere"}, {"url": "http://a:99999999/"}, {"url": 1}, {"form": "may"},
     {"retries": -1}, {"retries": True}, {"retries": 1000}, {"statuses": ["P"]}, {"statuses": "C"}, {"on": True}, []],
)  # fmt: skip
async def test_bad_settings_are_refused_and_change_nothing(client, settings):
    assert (await client.http.put("/simulator/webhooks", json=settings)).status_code == 400
    unchanged = {"url": None, "form": "april", "retries": 0, "statuses": ["C"]}
    assert (await client.http.get("/simulator/webhooks")).json() == {"settings": unchanged, "webhooks": []}


def test_settings_last_until_a_reset_and_are_each_counted_from_the_start(start, receiver):
    control = start(webhook_retries=1)
    at_first = {"url": receiver.url, "form": "april", "retries": 1, "statuses": ["C"]}
    assert control.put("/webhooks", json={"form": "march"}).json() == {**at_first, "form": "march"}
    assert control.put("/webhooks", json={"retries": 0}).json() == {**at_first, "retries": 0}
    control.post("/webhooks", json={"id": "1"})
    control.post("/reset")
    assert control.get("/webhooks").json() == {"settings": at_first, "webhooks": []}


@pytest.mark.parametrize("url", ["ftp://shop.test/", "shop.test", "http://", "http://[", "http://a:b/"])
def test_a_url_that_cannot_be_called_is_refused_at_once(options, url):
    with pytest.raises(ValueError, match="not an http or https URL"):
        options(webhook_url=url)


def test_it_stops_although_a_webhook_is_under_way(options, receiver):
    receiver.may_answer.clear()
    with running_simulator(options(webhook_url=receiver.url)) as base_url:
        httpx.post(f"{base_url}/simulator/transactions", json={})
        until(lambda: receiver.requests, "a webhook is under way")
