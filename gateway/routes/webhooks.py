"""`POST /webhooks/quantapay`: what QuantaPay tells of a payment (interface §3.8, contract §8)."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.errors import (
    FieldFault,
    GatewayError,
    InternalError,
    InvalidSignature,
    MalformedRequest,
    OriginNotAllowed,
    RateLimited,
    RequestTooLarge,
    StorageUnavailable,
    UnsupportedMediaType,
    ValidationFailed,
    WebhooksNotConfigured,
)
from gateway.http.admission import admit_wrong_key, source_of
from gateway.http.body import describe, read_json
from gateway.http.call import Call
from gateway.http.problems import responses
from gateway.http.routing import AddressedRoute
from gateway.webhooks.receive import exact

router = APIRouter(route_class=AddressedRoute, tags=["Webhooks"])


class QuantaPayWebhook(BaseModel):
    """What QuantaPay sends. Fields beyond these are ignored."""

    key: Annotated[str, Field(min_length=1, description="The Webhook Secret Key of the QuantaPay account.")]
    transaction: Annotated[
        dict[str, Any],
        Field(
            description="QuantaPay's row of the payment; texts or numbers.",
            json_schema_extra={"required": ["id"]},
            examples=[{"id": "42", "status": "C", "amount_fiat": "25.00", "external_reference": "A-1"}],
        ),
    ]


class Received(BaseModel):
    """The webhook needs no other attempt."""

    received: Literal[True] = True


_RECEIVED = Received().model_dump_json()

BODIES: tuple[type[BaseModel], ...] = (QuantaPayWebhook,)


@router.post(
    "/webhooks/quantapay",
    summary="Receive a webhook of QuantaPay",
    response_model=Received,
    openapi_extra=describe(*BODIES),
    responses=responses(
        MalformedRequest,
        InvalidSignature,
        OriginNotAllowed,
        RequestTooLarge,
        UnsupportedMediaType,
        ValidationFailed,
        RateLimited,
        InternalError,
        StorageUnavailable,
        WebhooksNotConfigured,
    ),
)
async def receive_quantapay_webhook(call: Call) -> Response:
    """Keep the payment that QuantaPay tells of, and answer at once; what comes of it is decided afterwards.

    For QuantaPay only, which proves itself by the `key` in the body. Nothing else of a webhook is believed: the payment
    is read back from QuantaPay before it counts.
    """
    receiver = call.services.receiver
    try:
        _require_allowed(call)
        receiver.require_configured()
        document = await read_json(call, parse_float=exact)
        if not isinstance(document, dict):
            raise ValidationFailed(faults=[FieldFault("Expected an object.", pointer="#")])
        if not receiver.admits(document):
            await admit_wrong_key(call)
            raise InvalidSignature
        await receiver.take(document)
    except GatewayError as error:
        receiver.count_refusal(error)
        raise
    return Response(_RECEIVED, media_type="application/json")


def _require_allowed(call: Call) -> None:
    """Raise `OriginNotAllowed` if gateway.yaml lists networks, and the request comes from none of them."""
    allowed = call.services.config.webhooks.allow_from
    source = source_of(call) if allowed else None
    if allowed and not any(source is not None and source in network for network in allowed):
        raise OriginNotAllowed(
            "Webhooks are not taken from this address. An operator can add its network to `webhooks.allow_from` in "
            "gateway.yaml; behind a proxy, GATEWAY_TRUSTED_PROXIES must name the proxy."
        )
