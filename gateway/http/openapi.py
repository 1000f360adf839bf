"""The specification: FastAPI's, with our problems in place of its own error shapes."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.http.problems import Problem

DESCRIPTION = """\
A REST front door for QuantaPay. The merchant's key stays on the gateway; callers bring a key of their own.

Amounts are decimal texts, never floating-point numbers. Times are RFC 3339 in UTC. Every error is
`application/problem+json` (RFC 9457) with a stable `code`, and its `type` links to a page about it.
"""

_FASTAPI_SHAPES = ("HTTPValidationError", "ValidationError")
_FASTAPI_ERROR = {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}


def specification(app: FastAPI, bodies: list[type[BaseModel]]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of `app`; `bodies` are the models that routes read by `json_body`."""
    document = get_openapi(
        title="QuantaPay Gateway",
        version=__version__,
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[
            {"name": "Balances", "description": "What the merchant holds."},
            {"name": "Rates", "description": "What coins are worth, and which there are."},
            {"name": "Checkout sessions", "description": "Start a payment on QuantaPay's hosted page."},
            {"name": "Transactions", "description": "Payments that QuantaPay knows of."},
            {"name": "Functions", "description": "QuantaPay functions without a route of their own."},
            {"name": "Webhooks", "description": "For QuantaPay: what it tells of payments."},
            {"name": "Operations", "description": "For load balancers and people."},
        ],
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models: list[type[BaseModel]] = [Problem, *bodies]
    _, extra = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas.update(extra["$defs"])
    for item in document["paths"].values():
        for operation in item.values():
            # Declared by FastAPI for every route with parameters; those that can refuse one declare our own.
            if operation["responses"].get("422", {}).get("content", {}).get("application/json") == _FASTAPI_ERROR:
                del operation["responses"]["422"]
    for shape in _FASTAPI_SHAPES:
        schemas.pop(shape, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
