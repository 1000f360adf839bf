"""Secrets turn up nowhere: not in a log line, an answer, a metric, an exception's text, or what the program prints.

Every secret of the test gateway holds a marker (see `tests/plugins/gateway.py`, which searches the whole run's logs and
answers at its end). Here the marker is also put where it could be repeated by mistake.
"""

import json
import subprocess
import sys

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.quantapay.envelope import read_envelope
from gateway.quantapay.reply import Reply
from gateway.sandbox.simulator.scenarios import SCENARIOS
from tests.plugins.gateway import API_KEY, MARKER, ORDERS_KEY, WEBHOOK_SECRET

SLOW = {"hang", "slow", "trickle"}


def test_no_scenario_of_quantapay_brings_a_secret_out(gateway, simulator, log_lines):
    order = {"price": "1.00", "currency": "usd", "order_id": "ORD-9"}
    for name in sorted(set(SCENARIOS) - SLOW):
        simulator.scenario(name, times=4)
        gateway.http.post("/checkout-sessions", json=order)
        gateway.http.get("/balances")
        gateway.http.get("/transactions/1")
        gateway.http.post("/functions/get-balances", json={})
        simulator.reset()
    assert_clean(gateway, log_lines)


@pytest.mark.parametrize(
    "content",
    [
        f'{{"price": "{MARKER}"}}'.encode(),
        f'{{"price": "{MARKER}'.encode(),
        f'{{"metadata": {{"a": ["{MARKER}"]}}}}'.encode(),
        f'{{"order_id": "{MARKER}|"}}'.encode(),
        f"{MARKER}".encode(),
        b"\xff" + MARKER.encode(),
        f'{{"a":"{MARKER}","a":"{MARKER}"}}'.encode(),
        b"[" * 9_000 + MARKER.encode(),
    ],
)  # fmt: skip
def test_bad_bodies_are_not_repeated(gateway, log_lines, content):
    for path in ("/checkout-sessions", "/functions/odd-one"):
        gateway.http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert_clean(gateway, log_lines)


def test_a_webhook_with_the_secret_in_clear_leaves_no_trace(gateway, log_lines):
    """QuantaPay's webhook holds the secret (contract §8); whoever sends one here, well formed or not, it stays out."""
    for content in (
        json.dumps({"key": WEBHOOK_SECRET, "transaction": {"id": "1"}}),
        json.dumps({"key": WEBHOOK_SECRET})[:-5],
        f"key={WEBHOOK_SECRET}",
    ):
        answer = httpx.post(f"{gateway.url}/webhooks/quantapay", content=content)
        gateway.seen.append(f"{answer.headers} {answer.text}")
    assert_clean(gateway, log_lines)


def test_secrets_in_the_wrong_place_are_not_repeated(gateway, log_lines):
    gateway.http.get("/transactions", params={"search": API_KEY})
    gateway.http.get("/transactions", params={"status": API_KEY})
    gateway.http.get(f"/exchange-rates/{API_KEY}", params={"currency": WEBHOOK_SECRET})
    gateway.http.get("/balances", headers={"Authorization": f"Bearer {API_KEY}"})
    gateway.http.get("/balances", headers={"Authorization": f"Basic {ORDERS_KEY}", "X-Request-Id": f"{ORDERS_KEY} x"})
    gateway.http.get(f"/{ORDERS_KEY}")
    gateway.http.get(f"/problems/{ORDERS_KEY}")
    assert_clean(gateway, log_lines)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, f"{MARKER}"),
        (200, f'{{"success":true,"response":{{"a":"{MARKER}"'),
        (200, f'{{"success":false,"message":"{MARKER}"}}'),
        (200, f'{{"success":false,"error_code":"{MARKER}"}}'),
        (500, f"<b>Fatal error</b> {MARKER}"),
        (503, f"{MARKER}"),
    ],
)
def test_no_exception_of_the_envelope_holds_the_body(status, body):
    with pytest.raises(GatewayError) as caught:
        read_envelope(Reply(status=status, headers=httpx.Headers(), body=body.encode()), signed=True, now=0)
    pending: list[BaseException] = [caught.value]
    while pending:
        error = pending.pop()
        assert MARKER not in f"{error!r} {error} {error.args} {vars(error)}"
        pending += [e for e in (error.__cause__, error.__context__) if e is not None]


def test_bad_configuration_is_told_without_its_values(tmp_path):
    (tmp_path / "gateway.yaml").write_text(
        f"clients:\n  - {{id: '{MARKER}!', key_sha256: {MARKER}, scopes: ['{MARKER}']}}\n"
        f"subscribers:\n  - {{id: a, url: 'http://{MARKER}@x', secret: '{MARKER}'}}\n"
    )
    environ = {
        "QUANTAPAY_API_KEY": f" {MARKER}",
        "QUANTAPAY_URL": f"http://{MARKER}.example",
        "QUANTAPAY_WEBHOOK_SECRET": f"{MARKER}\n",
        "GATEWAY_REDIS_URL": f"rediss://:{MARKER}@[bad",
        "GATEWAY_PORT": f"tcp://{MARKER}:1",
        "PATH": "/usr/bin:/bin",
    }
    for command in (["config", "check"], ["serve"]):
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "GATEWAY_REDIS_URL" in done.stderr
        assert MARKER not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def assert_clean(gateway, log_lines) -> None:
    assert len(gateway.seen) > 0
    for text in (*gateway.seen, log_lines.getvalue(), gateway.ops("/metrics").text, gateway.ops("/status").text):
        assert MARKER not in text
