"""Whether one replica takes in so many webhooks a second, and keeps each of them: prints the figures.

    python -m tests.bench.webhook_intake [WEBHOOKS [A_SECOND]]

The gateway is the real program with two workers and its own Valkey, which writes every webhook to its log. QuantaPay
is away, so nothing that was answered with 200 leaves the inbox, and what lies there at the end can be counted. The
senders run here, on the same processors. A webhook is due at its time, whatever became of those before it, and its
answer is timed from then.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import redis

from gateway.store.embedded import url_of_running
from tests.plugins.gateway import API_KEY, WEBHOOK_SECRET
from tests.plugins.processes import GatewayProcess, free_port

WEBHOOKS = 10_000
A_SECOND = 500
CONNECTIONS = 16
WORKERS = 2
MESSAGES = "qpg:{events}:inbox:messages"


def order_of(number: str) -> str:
    """Return the order that a payment is for."""
    return f"A-{number}"


def row(number: str) -> dict[str, str | None]:
    """Return QuantaPay's row of a payment, whose id is `number`."""
    return {
        "id": number,
        "biz_id": f"QP-20260410-{number}",
        "title": "",
        "description": "",
        "from": "0xaa",
        "to": "0xbb",
        "hash": f"0x{number:0>64}",
        "amount": "0.0125",
        "amount_fiat": "25.00000000",
        "cryptocurrency": "eth",
        "currency": "usd",
        "external_reference": order_of(number),
        "creation_time": "2026-04-10 09:00:00",
        "status": "C",
        "webhook": "1",
        "vat": "0",
        "billing": "",
        "checkout_id": None,
        "type": "2",
    }


def webhook(number: str) -> str:
    """Return the body of the webhook that tells of a payment."""
    return json.dumps({"key": WEBHOOK_SECRET, "transaction": row(number)})


def request(number: int) -> bytes:
    """Return a webhook of a payment of its own, as bytes on the wire."""
    body = webhook(str(number)).encode()
    head = f"POST /webhooks/quantapay HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


class Senders:
    """Connections that send one webhook after the other."""

    def __init__(self, port: int, webhooks: int, a_second: float) -> None:
        self._port = port
        self._interval = 1 / a_second
        self._numbers = iter(range(1, webhooks + 1))
        self._started = 0.0
        self.took = 0.0
        self.answers: Counter[int] = Counter()
        self.taken: set[str] = set()
        """Ids of the payments whose webhook was answered with 200."""
        self.seconds: list[float] = []

    async def run(self) -> None:
        """Send all."""
        self._started = time.perf_counter()
        await asyncio.gather(*(self._send_on_one() for _ in range(CONNECTIONS)))
        self.took = time.perf_counter() - self._started

    async def _send_on_one(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for number in self._numbers:
            due = self._started + number * self._interval
            await asyncio.sleep(due - time.perf_counter())
            writer.write(request(number))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            self.seconds.append(time.perf_counter() - due)
            status = int(head.split(b" ", 2)[1])
            self.answers[status] += 1
            if status == 200:
                self.taken.add(str(number))
        writer.close()
        await writer.wait_closed()


def kept(directory: Path) -> set[str]:
    """Return the ids of the payments in the inbox of the gateway that runs in `directory`."""
    with redis.Redis.from_url(url_of_running(directory)) as client:
        return {json.loads(text)["id"] for text in client.hvals(MESSAGES)}


def quantile(values: list[float], share: float) -> float:
    """Return the value that `share` of all are not above."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def say(what: str, figure: str) -> None:
    """Print one figure."""
    print(f"{what:<42}{figure}", flush=True)  # noqa: T201 - its figures are its report


def main(webhooks: int, a_second: int) -> None:
    """Measure and print; end with 1 if a webhook was not kept."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        environ = {
            "QUANTAPAY_API_KEY": API_KEY,
            "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "QUANTAPAY_URL": f"http://127.0.0.1:{free_port()}/api.php",
            "GATEWAY_REDIS_URL": "embedded",
            "GATEWAY_DATA_DIR": folder,
            "GATEWAY_WORKERS": str(WORKERS),
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        gateway = GatewayProcess(Path(folder), environ)
        stack.callback(gateway.stop)
        senders = Senders(gateway.port, webhooks, a_second)
        asyncio.run(senders.run())
        found = kept(Path(folder))
    say("webhooks sent", f"{webhooks}, {a_second} a second, to {WORKERS} workers on {os.cpu_count()} processors")
    say("answers", ", ".join(f"{count} × {status}" for status, count in sorted(senders.answers.items())))
    say("answered a second", f"{webhooks / senders.took:.0f}")
    for share in (0.5, 0.99):
        say(f"answered within, {share:.0%} of them", f"{quantile(senders.seconds, share) * 1000:.1f} ms")
    say("not kept", str(webhooks - len(found)))
    say("not kept, but answered with 200", str(len(senders.taken - found)))
    sys.exit(0 if len(found) == webhooks else 1)


if __name__ == "__main__":
    main(*[*map(int, sys.argv[1:]), *[WEBHOOKS, A_SECOND][len(sys.argv) - 1 :]])
