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

WRITE_METRICS = "/write-metrics"


def create_ops_app(
    *,
    registry: Callable[[], Awaitable[CollectorRegistry]],
    status: Callable[[], Awaitable[dict[str, Any]]],
    clock: Clock,
    write_metrics: Callable[[], None] | None = None,
) -> Starlette:
    """Build the listener; `registry` and `status` are asked anew at each request.

    `write_metrics`: only in a worker, whose supervisor has its counts written before it sums them up.
    """
    problems = Problems(public_url=None)

    async def page(_request: Request) -> Response:
        return status_page()

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(await registry()), media_type=CONTENT_TYPE_LATEST)

    async def current_status(_request: Request) -> Response:
        return JSONResponse(await status())

    async def livez(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/", page),
        Route("/metrics", metrics),
        Route("/status", current_status),
        Route("/livez", livez),
    ]
    if write_metrics is not None:

        async def written(_request: Request) -> Response:
            write_metrics()
            return JSONResponse({"status": "ok"})

        routes.append(Route(WRITE_METRICS, written, methods=["POST"]))
    return Starlette(
        routes=routes,
        middleware=[Middleware(AnswerHeaders, clock=clock), Middleware(CatchBugs, problems=problems)],
        exception_handlers={HTTPException: problems.on_http_exception},
    )
