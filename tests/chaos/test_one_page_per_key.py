"""Gateways killed, callers cut off and Valkey frozen at random: for each key or order one page is ever shown."""

import hashlib
import itertools
import random
import signal
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

from tests.plugins.gateway import ORDERS_KEY, SHOP, SHOP_KEY, quote
from tests.plugins.processes import GatewayProcess

pytestmark = pytest.mark.usefixtures("unmeasured")

SHORT, LONG = 80, 200
"""Keys and orders."""
CALLERS = 24
TIMEOUT = 1.0
PATIENCE = 90.0


class Fleet:
    """Two gateways that are killed and started again, over one Valkey that is frozen now and then."""

    def __init__(self, start, valkey, seed):
        self._start = start
        self._valkey = valkey
        self._random = random.Random(seed)
        self.gateways: list[GatewayProcess] = [start(), start()]
        self.kills = self.freezes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._trouble)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._over.set()
        self._thread.join()

    def _trouble(self) -> None:
        for freezes in itertools.cycle((True, False)):
            if self._over.wait(self._random.uniform(0.1, 0.4)):
                return
            if freezes:
                self._valkey.pause()
                self._over.wait(self._random.uniform(0.05, 0.4))
                self._valkey.resume()
                self.freezes += 1
            else:
                victim = self._random.randrange(2)
                self.gateways[victim].send(signal.SIGKILL)
                self.gateways[victim].process.wait()
                self.gateways[victim] = self._start()
                self.kills += 1


class Caller:
    """Creates sessions: the even ones as a careful service, with the same key again until there is an answer, the odd
    ones as an impatient customer, whose page asks again with a newer quote.
    """

    def __init__(self, fleet, shown, seed):
        self._fleet = fleet
        self._shown = shown
        self._seed = seed
        self._http = httpx.Client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))

    def close(self) -> None:
        self._http.close()

    def create(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # Sometimes it loses patience while the gateway is at it, as a cut connection would.
            timeout = chance.choice([0.05, 0.15, 5.0, 5.0])
            try:
                url = chance.choice(self._fleet.gateways).url + "/checkout-sessions"
                answer = self._http.post(url, **self._request(number), timeout=timeout)
            except httpx.HTTPError:
                continue
            if answer.status_code in {200, 201}:
                self._shown[number].append((answer.json()["payment_url"], answer.json()["price"]))
                if chance.random() < 0.5:
                    return
                continue  # what the caller got was lost on its side: it asks once more
            assert answer.status_code in {409, 502, 503, 504}, answer.text
            time.sleep(chance.uniform(0.05, 0.3))
        pytest.fail(f"key-{number} was never answered")

    def _request(self, number: int) -> dict[str, dict[str, object]]:
        price, order_id = f"{number + 1}.00", f"ORD-{number}"
        if number % 2:
            return {
                "json": quote(price, order_id=order_id),
                "headers": {"Authorization": f"Bearer {SHOP_KEY}", "Origin": SHOP},
            }
        return {
            "json": {"price": price, "currency": "usd", "order_id": order_id},
            "headers": {"Authorization": f"Bearer {ORDERS_KEY}", "Idempotency-Key": f"key-{number}"},
        }


def test_whatever_breaks_each_key_and_order_shows_one_page(
    start_gateway, valkey_factory, simulator, chaos_seed, chaos_seconds
):
    keys = SHORT if chaos_seconds is None else LONG
    simulator.scenario("slow", seconds=0.1)
    server = valkey_factory()
    shown: dict[int, list[tuple[str, str]]] = defaultdict(list)

    def start():
        return start_gateway(QUANTAPAY_TIMEOUT=str(TIMEOUT), GATEWAY_REDIS_URL=server.url)

    with (
        Fleet(start, server, chaos_seed) as fleet,
        closing(Caller(fleet, shown, chaos_seed)) as caller,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        list(pool.map(caller.create, range(keys)))
        while min(fleet.kills, fleet.freezes) < 2:  # a quick machine is done before there was much trouble
            caller.create(keys)
            keys += 1

    assert fleet.kills >= 2
    assert fleet.freezes >= 2
    print(f"{fleet.kills} kills, {fleet.freezes} freezes, {sum(map(len, shown.values()))} answers for {keys} keys")
    assert set(shown) == set(range(keys))
    for number, pages in shown.items():
        assert len(set(pages)) == 1, f"key-{number} showed several pages"
        assert pages[0][1] == f"{number + 1}.00"
    with server.client() as redis:
        for number in range(keys):
            digest = hashlib.sha256(f"ORD-{number}".encode()).hexdigest()[:32]
            assert redis.zcard(f"qpg:reference:{digest}") == 1, f"a payment of ORD-{number} could be for several"
