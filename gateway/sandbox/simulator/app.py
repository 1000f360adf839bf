"""The simulator as an ASGI application."""

from starlette.applications import Starlette
from starlette.routing import Mount, Route

from gateway.clock import Clock
from gateway.sandbox.simulator.api import Api
from gateway.sandbox.simulator.control import Control
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.pay_page import PayPage
from gateway.sandbox.simulator.world import World


def create_simulator(options: SimulatorOptions, clock: Clock) -> Starlette:
    """Build a simulator with an account of its own.

    `POST /api.php` is the API, `/pay.php` the page customers are sent to, `/simulator/…` the way to control both.
    """
    world = World(options, clock)
    api, pay_page, control = Api(world), PayPage(world), Control(world)
    return Starlette(
        routes=[
            Route("/api.php", api.handle, methods=["GET", "POST"]),
            Route("/pay.php", pay_page.show, methods=["GET"]),
            Route("/pay.php", pay_page.act, methods=["POST"]),
            Mount("/simulator", routes=control.routes()),
        ]
    )
