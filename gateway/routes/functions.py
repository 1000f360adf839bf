"""Any other QuantaPay function, if the operator allows it: flat parameters in, the answer as it is out."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import simplejson
from fastapi import APIRouter, Path, Response
from pydantic import AfterValidator, ConfigDict, Field, RootModel, StringConstraints

from gateway.errors import (
    FunctionNotAllowed,
    MalformedRequest,
    MissingArgument,
    RequestTooLarge,
    UnsupportedMediaType,
)
from gateway.http.authentication import scope
from gateway.http.body import describe, json_body
from gateway.http.call import Call
from gateway.http.problems import upstream_responses
from gateway.http.routing import DirectRoute
from gateway.http.schemas import Matches
from gateway.quantapay.envelope import MissingUpstreamArgument
from gateway.quantapay.functions import passthrough

router = APIRouter(route_class=DirectRoute, tags=["Functions"])

_NAME = re.compile(r"[a-z][a-z0-9_]*(\[[a-z0-9_]*\])?", re.ASCII)
_OURS = frozenset({"function", "api_key"})
"""Names that PHP would take for ours; `api-key` is no parameter name at all here."""


def _that_php_cannot_mistake(name: str) -> str:
    """Refuse a name that PHP might read as another: it drops leading blanks and cuts a name at NUL."""
    if not _NAME.fullmatch(name):
        raise ValueError("A parameter name is lower-case letters, digits and _, perhaps with one [index].")
    if name.partition("[")[0] in _OURS:
        raise ValueError("This parameter is the gateway's own.")
    return name


_write_plain = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_write_decimals = simplejson.JSONEncoder(use_decimal=True, ensure_ascii=True, separators=(",", ":")).encode


def _written(document: Mapping[str, Any]) -> str:
    """Write an answer, its numbers with all their digits; most have none that take simplejson's twice the time."""
    try:
        return _write_plain(document)
    except TypeError:  # it has a `Decimal`
        return _write_decimals(document)


ParameterName = Annotated[str, StringConstraints(max_length=64), AfterValidator(_that_php_cannot_mistake)]
ParameterValue = Annotated[str, Matches(r"[^\x00]{0,10000}", "a text of at most 10,000 characters, without NUL")]


class FunctionParameters(RootModel[dict[ParameterName, ParameterValue]]):
    """Form fields for the function: a flat object of at most 50 texts."""

    root: Annotated[dict[ParameterName, ParameterValue], Field(max_length=50)]

    model_config = ConfigDict(
        json_schema_extra={
            "propertyNames": {"pattern": f"^{_NAME.pattern}$"},
            "examples": [{"transaction_id": "42"}],
        }
    )


_read_parameters = json_body(FunctionParameters)


@router.post(
    "/functions/{function}",
    summary="Call another QuantaPay function",
    dependencies=scope("functions:call"),
    openapi_extra=describe(FunctionParameters),
    responses={
        **upstream_responses(
            FunctionNotAllowed, MalformedRequest, MissingArgument, RequestTooLarge, UnsupportedMediaType
        ),
        200: {
            "content": {
                "application/json": {
                    "schema": {"type": "object", "required": ["response"], "properties": {"response": {}}}
                }
            }
        },
    },
    response_class=Response,
)
async def call_function(
    call: Call,
    function: Annotated[str, Matches("[a-z0-9-]{1,64}", "a function name"), Path(examples=["check-transactions"])],
) -> Response:
    """Call a function that has no route of its own. Never cached, and never sent again once it may have arrived.

    The answer's numbers keep every digit. An answer that looks like an error is one.
    """
    if function not in call.services.config.functions.allow:
        raise FunctionNotAllowed
    parameters = (await _read_parameters(call)).root
    row = passthrough(function, parameters)
    try:
        found = await call.services.quantapay.call(row, parameters)
    except MissingUpstreamArgument as error:
        raise _missing_argument(error, parameters) from None
    return Response(_written({"response": found}), media_type="application/json")


def _missing_argument(error: MissingUpstreamArgument, parameters: Mapping[str, str]) -> MissingArgument:
    """Name the argument only if the caller named it first: upstream's words are not ours to pass on."""
    if error.argument in parameters:
        return MissingArgument(f"The function needs another value for {error.argument}.")
    return MissingArgument(upstream_code=error.upstream_code)
