"""Payments while gateways are killed, Redis is restarted and the subscriber fails: each turns paid and is told of.

Webhooks are sent once, as QuantaPay does, to a gateway that may be dead. Leases and pauses of the queues are brought
forward, so that what takes a minute takes a second. What is printed is how it went.
"""

import base64
import random
import signal
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import quantiles

import httpx
import pytest
import redis
import yaml
from standardwebhooks import Webhook

from gateway.store.embedded import EmbeddedValkey
from tests.plugins.gateway import ORDERS_KEY, WEBHOOK_SECRET, example_config
from tests.plugins.processes import until

pytestmark = pytest.mark.usefixtures("unmeasured")

SECRET = "whsec_" + base64.b64encode(b"the secret of a subscriber").decode()
PAYMENTS, MANY_PAYMENTS = 60, 2_000
SPREAD, LONG_SPREAD = 4.0, 60.0
"""Seconds over which they are paid."""
LEAST_KILLS = 2
ADVANCE = 1.0
"""Seconds between two times that all which waits is made due."""


class Unreliable:
    """A subscriber that takes seven events in ten and breaks off or refuses the others."""

    def __init__(self, seed):
        self.taken = defaultdict(list)
        """By order id: when each delivery was taken, and its webhook id and body."""
        self.types = set()
        self.attempts = 0
        dice, verifier, subscriber = random.Random(seed), Webhook(SECRET), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                event = verifier.verify(body, dict(self.headers))
                subscriber.attempts += 1
                match dice.choices(["take", "refuse", "reset", "lose"], [70, 15, 10, 5])[0]:
                    case "refuse":
                        self.send_error(500)
                        return
                    case "reset":
                        self.connection.close()
                        return
                    case "take":
                        self.send_response(204)
                        self.end_headers()
                order = event["data"]["checkout_session"]["order_id"]
                subscriber.types.add(event["type"])
                subscriber.taken[order].append((time.monotonic(), self.headers["webhook-id"], body))

            def handle_one_request(self):
                with suppress(OSError):  # the gateway was killed, or the connection broken off above
                    super().handle_one_request()
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def __enter__(self):
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class Trouble:
    """Kills a gateway now and then and starts it again, restarts Redis once, and lets time pass."""

    def __init__(self, start, valkey, seed):
        self._start, self._valkey, self._dice = start, valkey, random.Random(seed)
        self.gateways = [start(), start()]
        self.kills = 0
        self._calm, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._kill), threading.Thread(target=self._advance)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def calm_down(self):
        self._calm.set()
        self._threads[0].join()

    def __exit__(self, *_exception):
        self._calm.set()
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _kill(self):
        while not self._calm.wait(self._dice.uniform(0.2, 0.8)) or self.kills < LEAST_KILLS:
            if self.kills == 1:
                self._valkey.restart_after_a_crash()
            victim = self._dice.randrange(2)
            self.gateways[victim].send(signal.SIGKILL)
            self.gateways[victim].process.wait()
            self.gateways[victim] = self._start()
            self.kills += 1

    def _advance(self):
        with self._valkey.client() as client:
            while not self._over.wait(ADVANCE):
                try:
                    for key in client.keys("qpg:{events}:*:due") + client.keys("qpg:{sessions}:open"):
                        for member in client.zrange(key, 0, -1):
                            client.zadd(key, {member: 0}, xx=True)
                    client.delete("qpg:{sessions}:sweep")
                except redis.RedisError:
                    pass  # it is being restarted


class DurableValkey(EmbeddedValkey):
    """With an append-only file, as Redis should be run."""

    def client(self):
        return redis.Redis.from_url(self.url)

    def restart_after_a_crash(self):
        self._process.kill()
        self.stop()
        self.start()


def test_every_payment_turns_paid_and_is_told_of(
    start_gateway, simulator, tmp_path, tmp_path_factory, chaos_seed, chaos_seconds
):
    count, spread = (PAYMENTS, SPREAD) if chaos_seconds is None else (MANY_PAYMENTS, LONG_SPREAD)
    orders = [f"ORD-{number}" for number in range(count)]
    paid_at, answered = {}, []

    def pay(number):
        time.sleep(max(0.0, started + spread * number / count - time.monotonic()))
        fields = {"amount_fiat": "49.99", "currency": "usd", "external_reference": orders[number]}
        fields["creation_time"] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        row = httpx.post(f"{simulator.url}/simulator/transactions", json=fields).json()
        paid_at[orders[number]] = time.monotonic()
        gateway = trouble.gateways[number % 2]
        try:
            webhook = {"key": WEBHOOK_SECRET, "transaction": row}
            answered.append(httpx.post(f"{gateway.url}/webhooks/quantapay", json=webhook).status_code)
        except httpx.HTTPError:
            answered.append(0)

    with (
        Unreliable(chaos_seed) as subscriber,
        DurableValkey(tmp_path_factory.mktemp("durable")) as valkey,
        ThreadPoolExecutor(8) as pool,
    ):
        books = {"id": "books", "url": subscriber.url, "secret": SECRET}
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({**example_config(), "subscribers": [books]}))
        trouble = Trouble(lambda: start_gateway(GATEWAY_REDIS_URL=valkey.url), valkey, chaos_seed)
        with httpx.Client(headers={"Authorization": f"Bearer {ORDERS_KEY}"}, timeout=20) as http:

            def order(order_id):
                body = {"price": "49.99", "currency": "usd", "order_id": order_id}
                answer = http.post(f"{trouble.gateways[0].url}/checkout-sessions", json=body)
                while answer.status_code == 503:  # a busy machine misses Redis's time
                    answer = http.post(f"{trouble.gateways[0].url}/checkout-sessions", json=body)
                return answer.json()["id"]

            sessions = list(pool.map(order, orders))
            with trouble:
                started = time.monotonic()
                list(pool.map(pay, range(count)))
                trouble.calm_down()
                until(lambda: set(subscriber.taken) == set(orders), "every payment is told of")
            for session_id in sessions:
                answer = trouble.gateways[0].get(f"/checkout-sessions/{session_id}")
                assert answer.json()["status"] == "paid"

    assert subscriber.types == {"payment.completed"}
    assert trouble.kills >= LEAST_KILLS
    for taken in subscriber.taken.values():
        assert len({(webhook_id, body) for _, webhook_id, body in taken}) == 1, "told twice, as different events"
    again = sum(len(taken) - 1 for taken in subscriber.taken.values())
    late = quantiles((taken[0][0] - paid_at[order] for order, taken in subscriber.taken.items()), n=100)
    print(
        f"{count} payments, {trouble.kills} kills, {answered.count(200)} webhooks acknowledged, "
        f"{subscriber.attempts} attempts, {again} delivered again; seconds from payment to delivery: "
        f"p50 {late[49]:.2f}, p90 {late[89]:.2f}, p99 {late[98]:.2f}"
    )
