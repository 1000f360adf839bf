"""Types that several requests and answers share, so that each shape is described once."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.money import plain
from gateway.quantapay.models import TransactionStatus


@dataclass(frozen=True, slots=True)
class Matches:
    """A text of one form. Pydantic's own `pattern` would tell callers a regular expression; this tells them words."""

    pattern: str
    expected: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401 - pydantic's own signature
        """Check the whole text, after it is known to be one."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Publish the pattern."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        # JSON can spell half of a surrogate pair, which no encoding of ours can carry further.
        if not re.fullmatch(self.pattern, text, re.ASCII) or re.search("[\ud800-\udfff]", text):
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


def _write(value: object) -> object:
    return plain(value) if isinstance(value, Decimal) else value


Amount = Annotated[
    str,
    BeforeValidator(_write),
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]*)?$"}),
    Field(description="A decimal number as text, exact, without exponent.", examples=["0.5432"]),
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


class Transaction(BaseModel):
    """One payment. What QuantaPay left empty is null."""

    id: str = Field(examples=["42"])
    quantapay_reference: str | None = Field(description="`biz_id`.", examples=["QP-20260410-0A1B2"])
    title: str | None
    description: str | None
    from_address: str | None
    to_address: str | None
    hash: str | None
    amount: Amount | None
    cryptocurrency: str | None = Field(examples=["eth"])
    fiat_amount: Amount | None
    currency: str | None = Field(examples=["usd"])
    order_id: str | None = Field(
        description="`external_reference`. The payer can edit it: compare the amount with your own order."
    )
    status: TransactionStatus
    raw_status: str | None = Field(description="QuantaPay's own code.", examples=["C"])
    created_at: datetime | None

    model_config = ConfigDict(from_attributes=True)


class TransactionSummary(BaseModel):
    """What a browser may know of a payment."""

    id: str = Field(examples=["42"])
    hash: str | None
    status: TransactionStatus
    amount: Amount | None
    cryptocurrency: str | None = Field(examples=["eth"])

    model_config = ConfigDict(from_attributes=True)
