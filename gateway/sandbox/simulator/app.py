"""The simulator as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount, Route

from gateway.clock import Clock
from gateway.sandbox.simulator.api import Api
from gateway.sandbox.simulator.control import Control
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.pay_page import PayPage
from gateway.sandbox.simulator.world import World
from gateway.tasks import end


def create_simulator(options: SimulatorOptions, clock: Clock) -> Starlette:
    """Build a simulator with an account of its own.

    `POST /api.php` is the API, `/pay.php` the page customers are sent to, `/simulator/…` the way to control both.
    Webhooks are sent while its lifespan lasts.
    """
    world = World(options, clock)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        sending = asyncio.create_task(world.webhooks.run())
        try:
            yield
        finally:
            await end(sending)

    api, pay_page, control = Api(world), PayPage(world), Control(world)
    return Starlette(
        routes=[
            Route("/api.php", api.handle, methods=["GET", "POST"]),
            Route("/pay.php", pay_page.show, methods=["GET"]),
            Route("/pay.php", pay_page.act, methods=["POST"]),
            Mount("/simulator", routes=control.routes()),
        ],
        lifespan=lifespan,
    )
