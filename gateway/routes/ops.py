"""The operators' listener: metrics for Prometheus, the state of the process for people and programs."""

from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.clock import Clock
from gateway.http.middleware import AnswerHeaders, CatchBugs
from gateway.http.problems import Problems
from gateway.routes.status_page import status_page


def create_ops_app(
    *,
    registry: Callable[[], CollectorRegistry],
    status: Callable[[], Awaitable[dict[str, Any]]],
    clock: Clock,
) -> Starlette:
    """Build the listener; `registry` and `status` are asked anew at each request."""
    problems = Problems(public_url=None)

    async def page(_request: Request) -> Response:
        return status_page()

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)

    async def current_status(_request: Request) -> Response:
        return JSONResponse(await status())

    async def livez(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/metrics", metrics),
            Route("/status", current_status),
            Route("/livez", livez),
        ],
        middleware=[Middleware(AnswerHeaders, clock=clock), Middleware(CatchBugs, problems=problems)],
        exception_handlers={HTTPException: problems.on_http_exception},
    )
