"""Everything that callers do, mixed, at one gateway whose surroundings break: and what must hold all the same."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from anyio.from_thread import start_blocking_portal

from tests.plugins.chaos_answers import verdict
from tests.plugins.chaos_balancer import connections
from tests.plugins.gateway import ORDERS_KEY

READERS, CREATORS = 3, 4
_READS = (
    "/balances",
    "/credit-balance",
    "/cryptocurrencies",
    "/exchange-rates/btc?currency=usd",
    "/fiat-values/eth?currency=eur&amount=2",
    "/transactions",
    "/transactions/1",
)
_CONVERSION = {"amount": "0.5", "cryptocurrency_code": "btc", "currency_code": "usd"}
_HANGS_UP = 0.1
"""How often a creator loses its patience and hangs up."""
_ASKS_AGAIN = 0.2
"""How often one asks again that has its answer already."""


@dataclass(slots=True)
class Order:
    """One payment that a caller wants, the key it sends each time, and the pages it was ever shown."""

    key: str
    body: Mapping[str, str]
    pages: set[str] = field(default_factory=set)


class Mix:
    """Readers, callers of functions and creators that retry with their key; keeps what they saw."""

    def __init__(self, url: str, *, seed: int, pause: float) -> None:
        """`pause` is what each of them does between two requests, in seconds on average."""
        self.orders: list[Order] = []
        self.answers: Counter[tuple[str, int, str | None]] = Counter()
        """Kind of request, status, code."""
        self.wrong: list[str] = []
        """What no caller should ever see."""
        self.slowest = 0.0
        self._url = url
        self._dice = random.Random(seed)
        self._pause = pause
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Go on until `stop`; callers hang up then."""
        async with self._client() as http:
            workers = [
                *(self._read(http) for _ in range(READERS)),
                *(self._create(http) for _ in range(CREATORS)),
                self._call(http),
            ]
            tasks = [asyncio.create_task(worker) for worker in workers]
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in [*tasks, stopping]:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def stop(self) -> None:
        """Let `run` end."""
        self._stopping.set()

    async def settle(self, *, patience: float) -> list[Order]:
        """Ask for every order once more, until it has its page; return those that have none in time."""
        deadline = time.monotonic() + patience
        async with self._client() as http:
            for order in self.orders:
                while await self._ask_for(http, order) != httpx.codes.CREATED and time.monotonic() < deadline:
                    await asyncio.sleep(0.1)
        return [order for order in self.orders if not order.pages]

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=connections(),
            base_url=self._url,
            headers={"Authorization": f"Bearer {ORDERS_KEY}"},
            timeout=20,
        )

    async def _read(self, http: httpx.AsyncClient) -> None:
        while True:
            await self._send(http, "read", "GET", self._dice.choice(_READS))
            await self._rest()

    async def _call(self, http: httpx.AsyncClient) -> None:
        while True:
            await self._send(http, "call", "POST", "/functions/get-fiat-value", json=_CONVERSION)
            await self._rest()

    async def _create(self, http: httpx.AsyncClient) -> None:
        while True:
            number = next(self._numbers)
            price = f"{number}.{self._dice.randrange(100):02}"
            body = {"price": price, "currency": "usd", "order_id": f"ORD-{number}"}
            order = Order(key=f"key-{number}", body=body)
            self.orders.append(order)
            while await self._ask_for(http, order) != httpx.codes.CREATED or self._dice.random() < _ASKS_AGAIN:
                await self._rest()
            await self._rest()

    async def _ask_for(self, http: httpx.AsyncClient, order: Order) -> int | None:
        """Send the order once; return the status of the answer, if the caller waited for it."""
        asking = self._send(
            http, "create", "POST", "/checkout-sessions", json=order.body, headers={"Idempotency-Key": order.key}
        )
        if not self._stopping.is_set() and self._dice.random() < _HANGS_UP:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._dice.random() * 0.05):
                    await asking
            return None
        answer = await asking
        if answer is None or answer.status_code != httpx.codes.CREATED:
            return None if answer is None else answer.status_code
        session = answer.json()
        order.pages.add(session["payment_url"])
        if {name: session[name] for name in order.body} != order.body:
            self.wrong.append(f"asked for {order.body}, shown {answer.text}")
        return answer.status_code

    async def _send(
        self, http: httpx.AsyncClient, kind: str, method: str, path: str, **more: object
    ) -> httpx.Response | None:
        started = time.monotonic()
        try:
            answer = await http.request(method, path, **more)
            status, code, _ = verdict(answer)
        except httpx.HTTPError as error:
            self.wrong.append(f"{kind}: no answer, {error!r}")
            return None
        except (AssertionError, LookupError, ValueError) as error:
            self.wrong.append(f"{kind}: not documented, {error}")
            return None
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.answers[kind, status, code] += 1
        return answer

    async def _rest(self) -> None:
        await asyncio.sleep(self._dice.random() * 2 * self._pause)


@contextmanager
def mixed(url: str, *, seed: int, pause: float = 0.05) -> Iterator[Mix]:
    """Let callers of all kinds at a gateway while the block runs."""
    mix = Mix(url, seed=seed, pause=pause)
    with start_blocking_portal("asyncio") as portal:
        running = portal.start_task_soon(mix.run)
        try:
            yield mix
        finally:
            portal.call(mix.stop)
            running.result()
