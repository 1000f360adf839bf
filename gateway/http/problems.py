"""Errors as `application/problem+json` (RFC 9457): the only place that turns one into an answer."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import (
    FieldFault,
    FunctionNotSupported,
    GatewayError,
    InsufficientScope,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    OriginNotAllowed,
    Overloaded,
    RateLimited,
    Unauthenticated,
    UpstreamBudgetExhausted,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
    ValidationFailed,
    problem_types,
)
from gateway.http.answer import Answer
from gateway.telemetry.logs import annotate

MEDIA_TYPE = "application/problem+json"
_CONTENT_TYPE = (b"content-type", MEDIA_TYPE.encode())
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode  # once: `json.dumps` would each time
_MOST_FAULTS = 20
_MOST_BEGINNINGS = 256
"""Beginnings of problems that are kept: all that there usually are. Writing one costs a fourteenth of a 401."""
_LONGEST_PLACE = 120

PROBLEM_TYPES: dict[str, type[GatewayError]] = {error.code: error for error in problem_types()}


class Fault(BaseModel):
    """One thing wrong with one input."""

    pointer: str | None = Field(
        None, description="JSON Pointer into the body, as a URI fragment.", examples=["#/price"]
    )
    parameter: str | None = Field(None, description="Name of a path or query parameter, or of a header.")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={"required": ["type", "title", "status", "detail", "code", "request_id"]}
    )

    type: str = Field(description="Page that explains the problem.", examples=["/problems/validation-failed"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable, for programs.", examples=["validation-failed"])
    request_id: str
    errors: list[Fault] | None = None
    retry_after: int | None = Field(None, description="Seconds; the same as `Retry-After`.")
    outcome: str | None = Field(
        None, description="What became of a call that changes something: `unknown` or `not_sent`."
    )
    upstream_code: str | None = Field(None, description="QuantaPay's own code.", pattern="^[a-z0-9-]{1,64}$")


class Problems:
    """Renders errors; `public_url` makes the `type` links absolute."""

    def __init__(self, public_url: str | None) -> None:
        self._base = public_url or ""
        self._begin = lru_cache(_MOST_BEGINNINGS)(self._write_beginning)

    def response(self, error: GatewayError, request: Request) -> Response:
        """Answer with what the error says, and put its code on the request's log line."""
        annotate(code=error.code)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in error.headers.items()]
        text = self._begin(error.code, error.title, error.status, error.detail)
        text += f',"request_id":{_encode(request.scope["state"]["request_id"])}'
        if error.faults:
            text += f',"errors":{_encode([_fault(fault) for fault in error.faults[:_MOST_FAULTS]])}'
        if error.retry_after is not None:
            text += f',"retry_after":{error.retry_after}'
            headers.append((b"retry-after", b"%d" % error.retry_after))
        if error.outcome is not None:
            text += f',"outcome":{_encode(error.outcome)}'
        if error.upstream_code is not None:
            text += f',"upstream_code":{_encode(error.upstream_code)}'
        # ASCII on the wire: a name that the caller invented may hold what UTF-8 cannot carry.
        return Answer(error.status, [*headers, _CONTENT_TYPE], f"{text}}}".encode("ascii"))

    def _write_beginning(self, code: str, title: str, status: int, detail: str) -> str:
        """Write the document up to what differs from request to request."""
        kind = f"{self._base}/problems/{code}"
        document = {"type": kind, "title": title, "status": status, "detail": detail, "code": code}
        return _encode(document).removesuffix("}")

    async def on_gateway_error(self, request: Request, error: Exception) -> Response:
        """Handle our own errors."""
        assert isinstance(error, GatewayError)  # noqa: S101 - the registration says so; this is for the reader
        return self.response(error, request)

    async def on_invalid_request(self, request: Request, error: Exception) -> Response:
        """Handle FastAPI's validation errors: places and reasons, never the inputs they hold."""
        assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
        return self.response(ValidationFailed(faults=faults_of(error.errors())), request)

    async def on_http_exception(self, request: Request, error: Exception) -> Response:
        """Handle what Starlette raises by itself: no such path, no such method, an unreadable request."""
        assert isinstance(error, HTTPException)  # noqa: S101 - as above
        if error.status_code == NotFound.status:
            return self.response(NotFound(), request)
        if error.status_code == MethodNotAllowed.status:
            return self.response(MethodNotAllowed(headers=error.headers or {}), request)
        if error.status_code == MalformedRequest.status:
            return self.response(MalformedRequest(), request)
        return self.response(InternalError(), request)

    async def on_bug(self, request: Request, _error: Exception) -> Response:
        """Answer for an exception that nobody expected; `CatchBugs` writes it down."""
        return self.response(InternalError(), request)


def faults_of(errors: Sequence[Mapping[str, Any]]) -> list[FieldFault]:
    """Turn pydantic's errors into faults; their `input` and `ctx` stay behind."""
    return [_fault_at(error["loc"], _reason(error)) for error in errors]


def _fault_at(location: Sequence[str | int], detail: str) -> FieldFault:
    source, *path = location
    if source in ("path", "query", "header"):
        return FieldFault(detail, parameter=str(path[0] if path else source)[:_LONGEST_PLACE])
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in path if step != "[key]"]
    return FieldFault(detail, pointer="#" + "".join(f"/{step}" for step in steps)[:_LONGEST_PLACE])


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "This name is not known here."
    if error["type"] == "missing":
        return "This is required."
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if message.endswith(".") else f"{message}."


def _fault(fault: FieldFault) -> dict[str, str]:
    place = {"pointer": fault.pointer, "parameter": fault.parameter}
    return {**{name: value for name, value in place.items() if value is not None}, "detail": fault.detail}


def responses(*errors: type[GatewayError]) -> dict[int | str, dict[str, Any]]:
    """Declare answers for the specification: one a status, naming the codes it can carry."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for status in sorted({error.status for error in errors}):
        same = [error for error in errors if error.status == status]
        by_status[status] = {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in same),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return by_status


_KEYED = (
    Unauthenticated,
    InsufficientScope,
    OriginNotAllowed,
    ValidationFailed,
    RateLimited,
    InternalError,
)
_UPSTREAM = (
    FunctionNotSupported,
    UpstreamRejected,
    UpstreamInvalidResponse,
    UpstreamCredentialsRejected,
    UpstreamClockSkew,
    UpstreamThrottled,
    UpstreamUnavailable,
    UpstreamBudgetExhausted,
    Overloaded,
    UpstreamTimeout,
)


def keyed_responses(*others: type[GatewayError]) -> dict[int | str, dict[str, Any]]:
    """Declare what a route that needs a key can answer besides its success."""
    return responses(*_KEYED, *others)


def upstream_responses(*others: type[GatewayError]) -> dict[int | str, dict[str, Any]]:
    """Declare what a keyed route that calls QuantaPay can answer besides its success."""
    return responses(*_KEYED, *_UPSTREAM, *others)


def _marked_up(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def explanation(error: type[GatewayError]) -> str:
    """Write the page behind a problem's `type` link."""
    title, code, remedy, summary = map(_marked_up, (error.title, error.code, error.remedy, error.__doc__ or ""))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{code}</title><style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;"
        f"padding:0 1rem;color-scheme:light dark}}</style>"
        f"<main><p>HTTP {error.status} · <code>{code}</code></p><h1>{title}</h1><p>{summary}</p>"
        f"<h2>What to do</h2><p>{remedy}</p></main></html>"
    )
