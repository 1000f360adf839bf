"""Types that several requests and answers share, so that each shape is described once."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Matches:
    """A text of one form. Pydantic's own `pattern` would tell callers a regular expression; this tells them words."""

    pattern: str
    expected: str
    _form: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_form", re.compile(self.pattern, re.ASCII))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401 - pydantic's own signature
        """Check the whole text, after it is known to be one."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Publish the pattern."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        # JSON can spell half of a surrogate pair, which no encoding of ours can carry further.
        if not self._form.fullmatch(text) or _SURROGATE.search(text):
            raise ValueError(f"Expected {self.expected}.")
        return text


CURRENCY_CODE = "[A-Za-z0-9_-]{2,20}"
CurrencyCode = Annotated[
    str,
    Matches(CURRENCY_CODE, "a currency code such as usd"),
    AfterValidator(str.lower),
    Field(description="A currency code, in any case.", examples=["usd"]),
]
CoinCode = Annotated[
    str,
    Matches("[A-Za-z0-9_-]{2,20}", "a cryptocurrency code such as btc"),
    AfterValidator(str.lower),
    Field(description="A cryptocurrency code, in any case.", examples=["btc"]),
]


RetrievedAt = Annotated[
    datetime, Field(description="When QuantaPay gave this (UTC).", examples=["2026-04-10T09:00:00Z"])
]

_RFC3339 = r"(19[7-9][0-9]|[2-8][0-9]{3})-[0-9]{2}-[0-9]{2}[Tt][0-9:]{8}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"


def _require_rfc3339(value: object) -> object:
    # Pydantic alone would also take Unix numbers, dates without a time, and years that overflow in another zone.
    if isinstance(value, str) and not re.fullmatch(_RFC3339, value, re.ASCII):
        raise ValueError("Expected RFC 3339 with a zone, such as 2026-04-10T09:00:00Z (in a query, + is %2B).")
    return value


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_require_rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{_RFC3339}$"}),
    Field(description="RFC 3339 with a zone, inclusive.", examples=["2026-04-10T09:00:00Z"]),
]
