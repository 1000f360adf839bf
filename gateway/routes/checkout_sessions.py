"""Starting a payment: a price in, a hosted page out."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gateway.clock import utc
from gateway.config import SecretKeyClient
from gateway.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    MalformedRequest,
    OrderIdTaken,
    RequestTooLarge,
    StorageUnavailable,
    UnsupportedMediaType,
)
from gateway.http.body import describe, json_body
from gateway.http.dependencies import Caller, Services, ServicesDependency, scope, upstream_responses
from gateway.http.idempotency import REPLAYED, fingerprint, idempotency_key, once
from gateway.http.schemas import CurrencyCode, Matches
from gateway.money import decimals_of
from gateway.store.idempotency import Answer

router = APIRouter(tags=["Checkout sessions"])

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
    Field(description="Your own reference. Without one, the session's id is used.", examples=["ORD-1"]),
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


class CheckoutSessionRequest(BaseModel):
    """What the customer is asked to pay."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"price": "49.99", "currency": "usd", "order_id": "ORD-1", "metadata": {"cart": "7"}}]
        },
    )

    currency: CurrencyCode  # before the price, whose decimals depend on it
    price: Price
    order_id: OrderId | None = None
    metadata: Annotated[
        dict[MetadataName, MetadataValue],
        Field(description="Your own notes, at most 20; kept here, never sent to QuantaPay.", max_length=20),
    ] = {}

    @field_validator("price")
    @classmethod
    def _payable_in_its_currency(cls, price: str, info: ValidationInfo) -> str:
        currency = info.data.get("currency")
        _, _, fraction = price.partition(".")
        if currency is not None and len(fraction) > decimals_of(currency):
            raise ValueError(f"At most {decimals_of(currency)} decimals are possible in this currency.")
        return price


class CheckoutSession(BaseModel):
    """A payment under way: send the customer to `payment_url`."""

    id: str = Field(examples=["cs_5f0c…"])
    status: Literal["open"]
    payment_url: str = Field(description="QuantaPay's hosted page.")
    price: str = Field(examples=["49.99"])
    currency: str = Field(examples=["usd"])
    order_id: str = Field(examples=["ORD-1"])
    metadata: dict[str, str]
    created_at: datetime
    transaction: None = Field(None, description="The payment, once there is one.")


@router.post(
    "/checkout-sessions",
    summary="Create a checkout session",
    status_code=201,
    response_model=CheckoutSession,
    dependencies=scope("checkout-sessions:write"),
    openapi_extra=describe(CheckoutSessionRequest),
    responses={
        **upstream_responses(
            MalformedRequest,
            RequestTooLarge,
            UnsupportedMediaType,
            OrderIdTaken,
            IdempotencyInProgress,
            IdempotencyKeyReused,
            StorageUnavailable,
        ),
        201: {
            "headers": {
                "Location": {"description": "Path of the session.", "schema": {"type": "string"}},
                "Idempotent-Replayed": {
                    "description": "`true` if this is the stored answer to an earlier request with the same key.",
                    "schema": {"type": "string", "enum": ["true"]},
                },
            }
        },
    },
)
async def create_checkout_session(
    services: ServicesDependency,
    client: Caller,
    key: Annotated[str | None, Depends(idempotency_key)],
    order: Annotated[CheckoutSessionRequest, Depends(json_body(CheckoutSessionRequest))],
) -> Response:
    """Make a payment page for a price that this server's caller decided.

    On an error, `outcome` says whether QuantaPay may have made a page. Trying again is right either way: a
    page that was never answered was shown to nobody. With an `Idempotency-Key` that holds for a connection that
    broke, too: the same key and body get the same session.
    """

    async def create() -> Answer:
        return await _create(services, client, order)

    if key is None:
        made, replayed = await create(), False
    else:
        made, replayed = await once(services.idempotency, client.id, key, fingerprint(order), create)
    headers = {"Location": made.location, **(REPLAYED if replayed else {})}
    return Response(made.body, status_code=201, headers=headers, media_type="application/json")


async def _create(services: Services, client: SecretKeyClient, order: CheckoutSessionRequest) -> Answer:
    """Take the order id for this client, have a page made, and write the answer down."""
    session_id = f"cs_{services.clock.token_hex(16)}"
    order_id = order.order_id or session_id
    await services.orders.claim(client.id, order_id)
    created_at = utc(services.clock.time())
    page = await services.quantapay.create_checkout_session(
        price=order.price, currency=order.currency, order_id=order_id
    )
    session = CheckoutSession(
        id=session_id,
        status="open",
        payment_url=page.payment_url,
        price=order.price,
        currency=order.currency,
        order_id=order_id,
        metadata=order.metadata,
        created_at=created_at,
    )
    return Answer(
        body=session.model_dump_json().encode(), location=f"{services.public_url}/checkout-sessions/{session_id}"
    )
