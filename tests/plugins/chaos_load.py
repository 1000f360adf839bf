"""A steady load on gateways behind a load balancer, which runs beside a test that restarts and reconfigures them."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from anyio.from_thread import start_blocking_portal

from gateway.errors import StorageUnavailable
from tests.plugins.chaos_balancer import Balancer
from tests.plugins.gateway import ORDERS_KEY
from tests.plugins.processes import until

CALLERS = 8
"""Clients that ask at the same time, each over connections that it keeps."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of request."""

    method: str
    path: str
    json: Mapping[str, str] | None = field(default=None, hash=False)


READS = (Ask("GET", "/balances"), Ask("GET", "/exchange-rates/btc?currency=usd"))
CONVERSION = Ask(
    "POST",
    "/functions/get-fiat-value",
    {"amount": "0.5", "cryptocurrency_code": "btc", "currency_code": "usd"},
)
"""Never cached, never shared with another request: each reaches QuantaPay."""
CREATE = Ask("POST", "/checkout-sessions", {"price": "49.99", "currency": "usd"})


MOST_BUSY = 0.02
"""Of the requests. A machine that is busy with other tests now and then holds a process up for longer than anyone
waits for Redis (100 ms): 503 `storage-unavailable` is right then, and says nothing about what is tested here."""


class Load:
    """So many requests a second, and what became of them. `key` is sent with each request begun from then on."""

    def __init__(self, balancer: Balancer, asks: Iterable[Ask], *, rate: float, key: str) -> None:
        self.balancer = balancer
        self.key = key
        self.answered: Counter[Ask] = Counter()
        """Successes."""
        self.failures: list[str] = []
        """Requests without an answer, or with one that is no success."""
        self.busy = 0
        """Requests that found no Redis in time."""
        self._asks = itertools.cycle(asks)
        self._interval = CALLERS / rate
        self._stopping = False
        self._finished = [0] * CALLERS

    async def run(self) -> None:
        """Ask until `stop`, and until everything begun is answered."""
        async with (
            self.balancer.polling(),
            httpx.AsyncClient(transport=self.balancer, base_url="http://gateway", timeout=20) as http,
            asyncio.TaskGroup() as callers,
        ):
            for number in range(CALLERS):
                callers.create_task(self._call(http, number))

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    def go_on(self, requests: int = 30) -> None:
        """Wait until so many more are answered, and everything that is under way now is."""
        wanted = sum(self._finished) + requests
        each = [finished + 1 for finished in self._finished]
        until(
            lambda: sum(self._finished) >= wanted and all(map(int.__ge__, self._finished, each)),
            f"{requests} more requests are answered",
        )

    def assert_nothing_was_lost(self) -> None:
        """Fail unless every request was answered, and well."""
        assert not self.failures, "\n".join(self.failures)
        assert self.busy <= MOST_BUSY * self.answered.total()

    async def _call(self, http: httpx.AsyncClient, number: int) -> None:
        due = time.monotonic() + self._interval * number / CALLERS
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self._interval, time.monotonic())
            await self._ask(http, next(self._asks))
            self._finished[number] += 1

    async def _ask(self, http: httpx.AsyncClient, ask: Ask) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            answer = await http.request(ask.method, ask.path, json=ask.json, headers=headers)
        except (httpx.HTTPError, TimeoutError) as error:
            self.failures.append(f"{ask.method} {ask.path}: {error!r}")
            return
        if answer.is_success:
            self.answered[ask] += 1
        elif answer.json()["code"] == StorageUnavailable.code:
            self.busy += 1
        else:
            self.failures.append(f"{ask.method} {ask.path}: {answer.status_code} {answer.text}")


@contextmanager
def under_load(urls: Iterable[str], asks: Iterable[Ask], *, rate: float, key: str = ORDERS_KEY) -> Iterator[Load]:
    """Keep gateways under load while the block runs; `assert_nothing_was_lost` afterwards."""
    balancer = Balancer()
    for url in urls:
        balancer.add(url)
    load = Load(balancer, asks, rate=rate, key=key)
    with start_blocking_portal("asyncio") as portal:
        running = portal.start_task_soon(load.run)
        try:
            load.go_on()
            yield load
        finally:
            load.stop()
            running.result()
