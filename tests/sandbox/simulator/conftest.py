"""A simulated world whose time stands still, and a client to call it with."""

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from gateway.sandbox.simulator import SimulatorOptions, create_simulator

NOW = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC."""


@dataclass
class HeldClock:
    """Time moves when a test says so; `sleep` moves it too. Ids count up."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_000_000

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def token_hex(self, nbytes: int) -> str:
        return f"{next(self.ids):0{2 * nbytes}x}"

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Client:
    """Calls one simulator the way a merchant's server does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def post(self, function: str, **fields: str) -> httpx.Response:
        """Call a function with the right key."""
        return await self.form({"function": function, "api-key": "sim-key", **fields})

    async def form(self, fields: dict[str, str]) -> httpx.Response:
        return await self.http.post("/api.php", data=fields)

    async def call(self, function: str, **fields: str) -> Any:
        return (await self.post(function, **fields)).json()

    async def turn_on(self, name: str, **more: Any) -> httpx.Response:
        return await self.http.post("/simulator/scenario", json={"name": name, **more})


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def options() -> Callable[..., SimulatorOptions]:
    def build(**changes: Any) -> SimulatorOptions:
        secrets = {"api_key": SecretStr("sim-key"), "webhook_secret": SecretStr("your-webhook-secret-key")}
        return SimulatorOptions(**{**secrets, **changes})

    return build


@pytest.fixture
async def connect(options, clock) -> AsyncIterator[Callable[..., Client]]:
    """Build a client of a simulator with the given options, in this process."""
    opened: list[httpx.AsyncClient] = []

    def build(**changes: Any) -> Client:
        transport = httpx.ASGITransport(create_simulator(options(**changes), clock))
        opened.append(httpx.AsyncClient(transport=transport, base_url="http://sim.test"))
        return Client(opened[-1])

    yield build
    for http in opened:
        await http.aclose()


@pytest.fixture
def client(connect) -> Client:
    return connect()
