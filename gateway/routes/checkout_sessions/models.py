"""What is asked for and answered about checkout sessions."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationInfo, field_validator

from gateway.http.schemas import CURRENCY_CODE, CurrencyCode, Matches
from gateway.money import decimals_of
from gateway.representations import BrowserCheckoutSession

Price = Annotated[
    str,
    Matches(
        r"(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,8})?",
        "decimal text above 0, such as 49.99, with at most 12 digits before the point",
    ),
    Field(
        description="Decimal text above 0: at most 12 digits before the point, the currency's ISO 4217 decimals after.",
        examples=["49.99"],
    ),
]
OrderId = Annotated[
    str,
    Matches(r"[^|\x00-\x1f\x7f-\x9f]{1,255}", "1 to 255 characters, without | and control characters"),
    Field(description="Your own reference, compared byte for byte.", examples=["ORD-1"]),
]
MetadataName = Annotated[
    str, Matches(r"[^\x00-\x1f\x7f-\x9f]{1,40}", "a name of 1 to 40 characters, without control characters")
]
MetadataValue = Annotated[
    str,
    # Control characters grow sixfold in JSON, and a whole answer must fit what idempotency stores.
    Matches(
        r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]{0,500}", "a text of at most 500 characters, without control characters"
    ),
]


def _check_decimals(price: str, currency: str | None) -> str:
    _, _, fraction = price.partition(".")
    if currency is not None and len(fraction) > decimals_of(currency.lower()):
        raise ValueError(f"At most {decimals_of(currency.lower())} decimals are possible in this currency.")
    return price


class CheckoutSessionRequest(BaseModel):
    """What the customer is asked to pay, by a server with a secret key."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"price": "49.99", "currency": "usd", "order_id": "ORD-1", "metadata": {"cart": "7"}}]
        },
    )

    currency: CurrencyCode  # before the price, whose decimals depend on it
    price: Price
    order_id: OrderId | None = Field(None, description="Your own reference; without one, the session's id is used.")
    metadata: Annotated[
        dict[MetadataName, MetadataValue],
        Field(description="Your own notes, at most 20; kept here, never sent to QuantaPay.", max_length=20),
    ] = {}

    @field_validator("price")
    @classmethod
    def _payable_in_its_currency(cls, price: str, info: ValidationInfo) -> str:
        return _check_decimals(price, info.data.get("currency"))


class QuotedCheckoutSessionRequest(BaseModel):
    """The same from a browser with a publishable key: exactly the quote that the shop's server signed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "price": "49.99",
                    "currency": "usd",
                    "order_id": "ORD-1",
                    "timestamp": 1775811600,
                    "signature": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        },
    )

    currency: Annotated[  # as it was signed, in any case
        str, Matches(CURRENCY_CODE, "a currency code such as usd"), Field(examples=["usd"])
    ]
    price: Price
    order_id: OrderId
    timestamp: Annotated[StrictInt, Field(ge=0, le=99_999_999_999, description="When it was signed: Unix seconds.")]
    signature: Annotated[
        str,
        Matches("[0-9a-f]{64}", "64 lower-case hex digits"),
        Field(description="HMAC-SHA256 with the quote secret; docs/quotes.md says over what."),
    ]

    @field_validator("price")
    @classmethod
    def _payable_in_its_currency(cls, price: str, info: ValidationInfo) -> str:
        return _check_decimals(price, info.data.get("currency"))


class NewBrowserCheckoutSession(BrowserCheckoutSession):
    """The answer to a quote."""

    client_token: str = Field(description="Opens this session to the browser: `Authorization: Bearer cst_…`.")
