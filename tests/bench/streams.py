"""What it costs to tell browsers that a payment has come."""

from statistics import median

import httpx

from tests.bench import processor
from tests.bench.event_streams import Readers
from tests.bench.field import Field
from tests.bench.findings import Findings
from tests.bench.servers import KEY, GatewayServer
from tests.bench.subjects import bearer
from tests.bench.webhook_intake import order_of, webhook

STREAMS = 200
"""The most that a client with a secret key may have open."""
OF_A_SESSION = 5
"""The most that may watch one session."""
PAID = b'"status":"paid"'


def fan_out(field: Field, findings: Findings) -> None:
    """Pay sessions that are watched, as often as there are rounds."""
    costs = [_pay_all(field.gateway, first=number * STREAMS) for number in range(field.pace.rounds)]
    what = f"one event to one of {OF_A_SESSION} streams of a session, with its share of the payment's webhook"
    findings.others.append((what, f"{median(costs) * 1e6:.0f} µs CPU"))


def _pay_all(gateway: GatewayServer, *, first: int) -> float:
    """Return the seconds of processor for each event that arrived."""
    gateway.store.flushall()
    payments = [str(first + number) for number in range(STREAMS // OF_A_SESSION)]
    readers = Readers(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    with httpx.Client(base_url=gateway.url, headers=bearer(KEY), timeout=20) as http:
        try:
            for payment in payments:
                order = {"price": "25.00", "currency": "usd", "order_id": order_of(payment)}
                session = http.post("/checkout-sessions", json=order).raise_for_status().json()["id"]
                head = f"GET /checkout-sessions/{session}/events HTTP/1.1\r\nHost: gateway\r\n"
                request = f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode()
                readers.open([request] * OF_A_SESSION)
            readers.read_until(b"data:")
            before = processor.seconds(gateway.pid)
            for payment in payments:
                headers = {"Content-Type": "application/json"}
                http.post("/webhooks/quantapay", content=webhook(payment), headers=headers).raise_for_status()
            readers.read_until(PAID)
            return (processor.seconds(gateway.pid) - before) / STREAMS
        finally:
            readers.close()
