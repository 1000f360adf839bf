"""Request bodies: bounded, strict JSON, and validated only then."""

import json
from collections.abc import Awaitable, Callable
from email.message import Message
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from gateway.errors import MalformedRequest, RequestTooLarge, UnsupportedMediaType, ValidationFailed
from gateway.http.call import Call
from gateway.http.headers import first_of
from gateway.http.problems import faults_of

MOST_BYTES = 64 * 1024

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[Model]) -> Callable[[Call], Awaitable[Model]]:
    """Make a dependency that reads the body as `model`.

    A dependency and not a FastAPI body parameter: those are read before any other dependency runs, so a caller
    without a key could make the gateway parse, and duplicate names would pass unseen.

    Raises `UnsupportedMediaType`, `RequestTooLarge`, `MalformedRequest` or `ValidationFailed`, in this order.
    """

    async def read(call: Call) -> Model:
        document = await read_json(call)
        try:
            return model.model_validate(document)
        except ValidationError as error:
            faults = faults_of([{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_url=False)])
        raise ValidationFailed(faults=faults)

    return read


async def read_json(call: Call, *, parse_float: Callable[[str], object] = float) -> object:
    """Return the body as strict JSON. `parse_float`: what becomes of a number with a point or an exponent.

    Raises `UnsupportedMediaType`, `RequestTooLarge` or `MalformedRequest`, in this order.
    """
    _require_json(call)
    return parse(await _bounded(call), parse_float=parse_float)


def describe(*models: type[BaseModel]) -> dict[str, Any]:
    """Declare a body, one of several, for the specification (`openapi_extra`), as `json_body` hides it from FastAPI."""
    schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    }


def parse(body: bytes, *, parse_float: Callable[[str], object] = float) -> object:
    """Read strict JSON: UTF-8, no duplicate names, no `NaN`; raise `MalformedRequest` without the input."""
    try:
        return _decoder(parse_float).decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        problem = MalformedRequest("The body is not valid UTF-8.")
    except RecursionError:
        problem = MalformedRequest("The body is nested too deeply.")
    except (ValueError, ArithmeticError):  # the second for a Decimal beyond all bounds
        # Raised from nothing: a JSON error holds the whole document.
        problem = MalformedRequest("The body is not valid JSON.")
    raise problem


@cache
def _decoder(parse_float: Callable[[str], object]) -> json.JSONDecoder:
    """Return what `json.loads` would make for every body."""
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=parse_float)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise MalformedRequest("The body has the same name twice in one object.")
    return document


def _refuse_constant(_token: Literal["NaN", "Infinity", "-Infinity"] | str) -> NoReturn:
    raise ValueError


def _require_json(call: Call) -> None:
    content_type = first_of(call.scope, b"content-type") or ""
    encoding = (first_of(call.scope, b"content-encoding") or "identity").lower()
    if content_type == "application/json" and encoding == "identity":
        return  # as nearly everyone writes it; taking the header apart takes 10 µs
    header = Message()
    header["Content-Type"] = content_type
    try:
        charset = (header.get_content_charset() or "utf-8").lower()
    except ValueError:  # a parameter that only looks like one of RFC 2231's
        raise UnsupportedMediaType from None
    if header.get_content_type() != "application/json" or charset != "utf-8" or encoding != "identity":
        raise UnsupportedMediaType


async def _bounded(call: Call) -> bytes:
    announced = first_of(call.scope, b"content-length") or "0"
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        raise RequestTooLarge
    body, more = bytearray(), True
    while more:  # and not `call.stream()`: asyncio keeps a list of asynchronous generators
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise RequestTooLarge
        more = message.get("more_body", False)
    return bytes(body)
