"""The subscribers of docs/webhooks.md run as they stand there, and the page says what is so."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import httpx
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook
from typer.testing import CliRunner

from gateway.cli.program import app
from gateway.config import EventName
from gateway.http.problems import PROBLEM_TYPES
from gateway.payments.events import Reason
from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from gateway.telemetry import reference
from gateway.webhooks.outbox import EventBody
from gateway.webhooks.schedule import DELAYS
from gateway.webhooks.signing import signed_headers
from tests.plugins.processes import free_port, until

PAGE = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text(encoding="utf-8")
SECRET = "whsec_c2FtcGxlLXNlY3JldC1vZi10aGUtb3JkZXJzLTMyIQ=="
OTHER = "whsec_b3RoZXItc2VjcmV0LW9mLXRoZS1vcmRlcnMtMzIhIQ=="
PROGRAMS = {"python": ("subscriber.py", sys.executable), "js": ("subscriber.mjs", "node")}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def example():
    return json.loads(blocks("json")[0])


class Subscriber:
    """A sample as a process. What it prints goes to a file."""

    def __init__(self, folder, language):
        file, name = PROGRAMS[language]
        program = shutil.which(name)
        if program is None:
            pytest.skip(f"{name} is not installed")
        (folder / file).write_text(blocks(language)[0], encoding="utf-8")
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{(port := free_port())}", timeout=20)
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [program, str(folder / file)],
                env={**os.environ, "HOOK_SECRET": SECRET, "PORT": str(port)},
                stdout=output,
                stderr=subprocess.DEVNULL,
            )

    def is_up(self):
        assert self.process.poll() is None
        try:
            return self._http.post("/hook", content=b"").status_code == 401
        except httpx.TransportError:
            return False

    def said(self):
        return self._output.read_text(encoding="utf-8").splitlines()

    def send(self, event, message_id, *, secrets=(SECRET,), off=timedelta(0), body=None, **headers):
        """Deliver an event as the gateway does; return the answer's status."""
        sent_at, text = datetime.now(UTC) + off, json.dumps(event, ensure_ascii=False)
        signatures = " ".join(Webhook(secret).sign(message_id, sent_at, text) for secret in secrets)
        signed = {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": signatures,
        }
        content = text.encode() if body is None else body
        return self._http.post("/hook", content=content, headers={**signed, **headers}).status_code

    def stop(self):
        self._http.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", params=PROGRAMS)
def subscriber(request, tmp_path_factory):
    started = Subscriber(tmp_path_factory.mktemp("subscriber"), request.param)
    try:
        until(started.is_up, "the sample listens")
        yield started
    finally:
        started.stop()


@pytest.fixture
def send(subscriber, request):
    """Sends an event with an id of the test's own; returns the status, and what the sample has said to all it got."""
    before = len(subscriber.said())

    def deliver(event, message_id=request.node.name, **more):
        status = subscriber.send(event, message_id, **more)
        return status, subscriber.said()[before:]

    return deliver


def with_session(**changes):
    event = example()
    event["data"]["checkout_session"] |= changes
    return event


def test_a_paid_order_is_shipped_once_however_often_it_is_told(send):
    assert send(example()) == (204, ["ship ORD-1"])
    assert send(example()) == (204, ["ship ORD-1"])
    assert send(example(), "msg_other")[1] == ["ship ORD-1", "ship ORD-1"]


@pytest.mark.parametrize("session", [{"price": "0.01"}, {"currency": "eur"}, {"order_id": "ORD-2"}, {"price": "49.990"},
                                     {"order_id": "__proto__"}])  # fmt: skip
def test_a_session_that_is_not_for_what_the_order_costs_ships_nothing(send, session):
    assert send(with_session(**session)) == (204, ["look at payment.completed of transaction 42"])


@pytest.mark.parametrize("type_", [name for name in get_args(EventName) if name != "payment.completed"])
def test_no_other_event_ships(send, type_):
    assert send({**example(), "type": type_}) == (204, [f"look at {type_} of transaction 42"])


def test_a_payment_for_no_session_ships_nothing(send):
    event = example()
    event["data"]["checkout_session"] = None
    assert send({**event, "type": "payment.unmatched"})[1] == ["look at payment.unmatched of transaction 42"]
    assert send(event, "msg_odd")[1][1:] == ["look at payment.completed of transaction 42"]


def test_texts_of_any_script_are_verified_as_bytes(send):
    assert send(with_session(metadata={"to": "Müller – 注文 🧾"})) == (204, ["ship ORD-1"])


def test_one_right_signature_of_several_is_enough(send):
    assert send(example(), secrets=(OTHER, SECRET)) == (204, ["ship ORD-1"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"secrets": (OTHER,)},
        {"off": timedelta(minutes=-6)},
        {"off": timedelta(minutes=6)},
        {"body": json.dumps({**example(), "type": "payment.duplicate"}).encode()},
        {"body": b""},
        {"webhook-id": "msg_another"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "nan"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1a," + "A" * 43 + "="},
        {"webhook-signature": "v1,a,b"},
    ],
    ids=str,
)
def test_what_is_not_signed_as_it_should_be_is_refused_and_does_nothing(send, wrong):
    assert send(example(), "msg_wrong", **wrong) == (401, [])


def test_a_refused_event_does_not_use_up_its_id(send):
    assert send(example(), "msg_again", secrets=(OTHER,)) == (401, [])
    assert send(example(), "msg_again") == (204, ["ship ORD-1"])


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_sample_is_short(language):
    assert len([line for line in blocks(language)[0].splitlines() if line.strip()]) <= 35


def test_the_example_is_what_the_gateway_sends_and_its_signature_is_right():
    body = EventBody.model_validate(example())
    assert body.model_dump(mode="json") == example()
    headers = dict(line.split(": ") for line in blocks("text")[0].splitlines())
    secret = re.search(r"was made with `(whsec_[^`]+)`", PAGE)[1]
    sent = json.dumps(example(), ensure_ascii=False, separators=(",", ":"))
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers == signed_headers([SecretStr(secret)], message_id=headers["webhook-id"], message=sent, at=at)


def test_every_event_and_reason_is_on_the_page():
    [table] = re.findall(r"^\| `type` \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (?:`(payment\.[a-z]+)`)? ?\| (?:`([a-z-]+)`|–) \|", table, re.MULTILINE)
    assert {type_ for type_, _ in rows if type_} == set(get_args(EventName))
    assert {reason for _, reason in rows if reason} == set(get_args(Reason))


def test_the_delays_are_those_of_the_schedule():
    said = re.search(r"tried again after ([^;]+?), each", PAGE)[1]
    units = {"s": 1, "min": 60, "h": 3600}
    assert [int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)", said)] == list(DELAYS)


def test_the_simulator_can_be_tried_as_the_page_says():
    [commands] = [block for block in blocks("sh") if "/simulator" in block]
    secrets = {"api_key": SecretStr("key"), "webhook_secret": SecretStr("secret")}
    url = f"http://127.0.0.1:{free_port()}/"  # nobody is there
    with running_simulator(SimulatorOptions(**secrets, webhook_url=url)) as simulator:
        _, start, *rest = commands.splitlines()
        assert start == "S=http://127.0.0.1:8090/simulator"
        lines = "\n".join(["set -e", f"S={simulator}/simulator", *rest])
        subprocess.run(["bash", "-c", lines], check=True, capture_output=True, timeout=20)
        state = httpx.get(f"{simulator}/simulator/webhooks").json()
    assert {"49.99", "0.01"} == {item["transaction"]["amount_fiat"] for item in state["webhooks"]}
    assert state["settings"] == {"url": url, "form": "april", "retries": 0, "statuses": []}


def test_every_code_metric_and_command_named_on_the_page_exists():
    codes = re.findall(r"\b([45][0-9]{2}) `([a-z-]+)`", PAGE)
    assert len(codes) >= 8
    for status, code in codes:
        assert PROBLEM_TYPES[code].status == int(status)
    for name in re.findall(r"`(gateway_[a-z_]+)`", PAGE):
        assert f"`{name}`" in reference.render()
    for command in set(re.findall(r"^quantapay-gateway (.+?)(?: msg_| --|  |$)", PAGE, re.MULTILINE)):
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command
