"""The public listener: everything that callers reach, from the outermost layer to the routes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache, partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from gateway import __version__
from gateway.errors import GatewayError
from gateway.http.cors import Cors
from gateway.http.middleware import AnswerHeaders, CatchBugs, HeadAsGet, RequestRecord
from gateway.http.openapi import specification
from gateway.http.problems import Problems
from gateway.http.routing import Direct
from gateway.http.services import Services
from gateway.routes import balances, checkout_sessions, functions, operations, rates, sdk, transactions, webhooks
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Tracer

_RESOURCES = (balances, rates, checkout_sessions, transactions, functions, webhooks, operations, sdk)
_BODIES: list[type[BaseModel]] = [*checkout_sessions.BODIES, functions.FunctionParameters, *webhooks.BODIES]
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
"""FastAPI's own would record exception texts and query strings."""


def create_api(
    services: Services, *, docs: bool, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
) -> FastAPI:
    """Build what knows every route: the specification is made from it, and it serves those without a key."""
    problems = Problems(services.public_url)
    app = FastAPI(
        title="QuantaPay Gateway",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        telemetry=_NO_TELEMETRY,
        lifespan=lifespan,
        exception_handlers={
            GatewayError: problems.on_gateway_error,
            RequestValidationError: problems.on_invalid_request,
            HTTPException: problems.on_http_exception,
            Exception: problems.on_bug,
        },
    )
    app.state.services = services
    for resource in _RESOURCES:
        app.include_router(resource.router)
    if docs:
        app.include_router(operations.docs_router)
    app.openapi = cache(partial(specification, app, _BODIES))  # type: ignore[method-assign]  # FastAPI's own way
    return app


def create_public_app(api: FastAPI, services: Services, *, metrics: Metrics, tracer: Tracer | None) -> ASGIApp:
    """Put around `api` what happens to every request: read it from the bottom, as a request comes in."""
    problems = Problems(services.public_url)
    routes = [route for resource in _RESOURCES for route in resource.router.routes]
    app: ASGIApp = Direct(api, routes=routes, services=services, problems=problems)
    app = CatchBugs(app, problems=problems)
    app = HeadAsGet(app)  # around the former, whose answer has no body for HEAD either
    app = Cors(app, services=services, problems=problems)
    app = RequestRecord(app, clock=services.clock, metrics=metrics, tracer=tracer)
    return AnswerHeaders(app, clock=services.clock, lifecycle=services.lifecycle)
