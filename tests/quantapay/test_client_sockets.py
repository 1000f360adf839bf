"""The client over real sockets: what cuts, hangs and refuses there, and what the caller and QuantaPay see of it."""

import asyncio
import contextlib
import json
import socket
import time
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.errors import (
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.functions import GET_BALANCES, GET_CREDIT_BALANCE
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.transport import HttpTransport
from gateway.telemetry.metrics import Metrics
from tests.plugins.timing import quickest

ORDER = {"price": "49.90", "currency": "usd", "order_id": "A-1"}
ANSWERS = {
    "get-balances": [],
    "get-credit-balance": {"credit_balance": "1", "credit_currency": "USD"},
    "create-checkout-session": {"payment_url": "http://127.0.0.1/pay.php?checkout_id=cs-1"},
}


class Granting:
    """A budget that grants everything, or nothing."""

    def __init__(self) -> None:
        self.granting = True

    async def take(self, urgency: object) -> None:
        if not self.granting:
            raise UpstreamBudgetExhausted(retry_after=1, outcome="not_sent")

    async def throttled(self) -> None:
        pass


class QuantaPayServer:
    """Answers over TCP as its `behaviour` says for each function; `forms` is what arrived."""

    def __init__(self) -> None:
        self.forms: list[str] = []
        self.arrivals: asyncio.Queue[str] = asyncio.Queue()
        self.behaviour: dict[str, list[str]] = {}
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))  # refuses until it listens
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/api.php"

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self.socket)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.socket.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        function = parse_qs((await reader.readexactly(int(length))).decode())["function"][0]
        self.forms.append(function)
        self.arrivals.put_nowait(function)
        body = json.dumps({"success": True, "response": ANSWERS[function]}).encode()
        behaviours = self.behaviour.get(function, ["answer"])
        behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) if behaviour != "hang" else b"")
        if behaviour == "hang":
            await asyncio.Event().wait()
        elif behaviour == "cut":
            writer.write(body[:5])
            raise ConnectionResetError
        elif behaviour == "dribble":
            for _ in range(1000):
                writer.write(b" ")
                await asyncio.sleep(0.05)
        writer.write(body)
        await writer.drain()


class EventfulClock(SystemClock):
    """A real clock; what is to happen during a pause happens, and the pause takes no time."""

    def __init__(self, during_pause) -> None:
        self._during_pause = during_pause

    async def sleep(self, seconds: float) -> None:
        await self._during_pause()

    def random(self) -> float:
        return 0.5


@pytest.fixture
async def server():
    server = QuantaPayServer()
    yield server
    await server.close()


@pytest.fixture
async def client_of(server):
    """Make clients of the server; they are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def make(*, url=None, timeout=10.0, clock=None, budget=None) -> QuantaPay:
            url = url or server.url
            client = QuantaPay(
                HttpTransport(url, connect_seconds=timeout / 2),
                url=url,
                api_keys=RotatingSecret(SecretStr("key-1")),
                signing_secrets=RotatingSecret(SecretStr("hook-1")),
                payment_urls=PaymentUrls(["127.0.0.1"], upstream_on_loopback=True),
                timeout=timeout,
                upstream_name=lambda name: name,
                budget=budget or Granting(),
                clock=clock or SystemClock(),
                metrics=Metrics(),
            )
            stack.push_async_callback(client.close)
            return client

        yield make


async def test_a_create_that_found_nobody_listening_is_sent_once_when_somebody_does(server, client_of):
    client = client_of(clock=EventfulClock(server.listen))
    page = await client.create_checkout_session(**ORDER)
    assert page.payment_url == ANSWERS["create-checkout-session"]["payment_url"]
    assert server.forms == ["create-checkout-session"]


async def test_after_a_body_that_was_cut_off_a_read_is_sent_again_and_a_create_is_not(server, client_of):
    await server.listen()
    server.behaviour = {"get-balances": ["cut", "cut", "answer"], "create-checkout-session": ["cut"]}
    client = client_of()
    assert (await client.call(GET_BALANCES)).balances == ()
    with pytest.raises(UpstreamInvalidResponse) as caught:
        await client.create_checkout_session(**ORDER)
    assert (caught.value.outcome, caught.value.upstream_status) == ("unknown", 200)
    assert server.forms == [*["get-balances"] * 3, "create-checkout-session"]


@pytest.mark.parametrize("behaviour", ["hang", "dribble"])
async def test_the_deadline_holds_within_a_tenth_and_a_create_that_was_sent_is_unknown(server, client_of, behaviour):
    await server.listen()
    client = client_of(timeout=1.0)

    async def late() -> float:
        server.behaviour = {"create-checkout-session": [behaviour]}
        server.forms.clear()
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout) as caught:
            await client.create_checkout_session(**ORDER)
        assert caught.value.outcome == "unknown"
        assert caught.value.upstream_status == (200 if behaviour == "dribble" else None)
        assert server.forms == ["create-checkout-session"]
        return time.monotonic() - started

    assert 0.99 <= await quickest(late, under=1.1) <= 1.1


@pytest.fixture
def silent_url():
    """An address where the system takes connections and nobody ever says a word: TLS never gets through."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/api.php"


async def test_a_create_whose_deadline_passes_while_it_connects_was_not_sent(client_of, silent_url):
    async def pause() -> None:
        await asyncio.sleep(0.05)  # so that half the deadline to connect is more than is left the second time

    client = client_of(url=silent_url, timeout=0.3, clock=EventfulClock(pause))
    started = time.monotonic()
    with pytest.raises(UpstreamTimeout) as caught:
        await client.create_checkout_session(**ORDER)
    assert caught.value.outcome == "not_sent"
    assert time.monotonic() - started < 2
    for _ in range(10):
        with pytest.raises((UpstreamTimeout, UpstreamUnavailable)) as caught:
            await client.create_checkout_session(**ORDER)
        assert caught.value.outcome == "not_sent"
    assert client.breakers == {"connect": "open", "create-checkout-session": "closed"}


async def test_one_function_that_hangs_fills_its_own_places_and_stops_no_other(server, client_of):
    await server.listen()
    server.behaviour = {"get-balances": ["hang"]}
    client = client_of()
    hanging = [asyncio.create_task(client.call(GET_BALANCES)) for _ in range(65)]
    for _ in range(64):
        await server.arrivals.get()

    async with asyncio.timeout(0.9):  # less than anyone waits for a place
        await client.call(GET_CREDIT_BALANCE)
        await client.create_checkout_session(**ORDER)
    [done], _ = await asyncio.wait(hanging, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(done.exception(), Overloaded)
    assert (done.exception().retry_after, done.exception().outcome) == (1, None)
    assert server.forms.count("get-balances") == 64

    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    server.behaviour = {}
    async with asyncio.timeout(5):
        await asyncio.gather(*(client.call(GET_BALANCES) for _ in range(64)))


async def test_a_caller_that_hangs_up_ends_its_call_and_nothing_is_sent_again(server, client_of):
    await server.listen()
    server.behaviour = {"create-checkout-session": ["hang", "answer"]}
    client = client_of()
    call = asyncio.create_task(client.create_checkout_session(**ORDER))
    await server.arrivals.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert server.forms == ["create-checkout-session"]
    await client.create_checkout_session(**ORDER)
    assert client.breakers == {"connect": "closed", "create-checkout-session": "closed"}


async def test_nobody_listening_opens_the_breaker_of_all_and_one_probe_closes_it(server, client_of):
    class Held(SystemClock):
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock, budget = Held(), Granting()
    client = client_of(clock=clock, budget=budget)
    for function in [GET_BALANCES, GET_CREDIT_BALANCE] * 5:
        with pytest.raises(UpstreamUnavailable):
            await client.call(function)
    assert client.breakers["connect"] == "open"
    await server.listen()
    with pytest.raises(UpstreamUnavailable):
        await client.create_checkout_session(**ORDER)
    assert server.forms == []
    clock.now += 5
    budget.granting = False
    with pytest.raises(UpstreamBudgetExhausted):
        await client.call(GET_BALANCES)
    budget.granting = True
    await client.create_checkout_session(**ORDER)
    assert set(client.breakers.values()) == {"closed"}
