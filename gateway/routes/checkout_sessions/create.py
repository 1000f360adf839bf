"""`POST /checkout-sessions`: a price in, a hosted page out."""

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from gateway.access.tokens import client_token
from gateway.config import PublishableKeyClient, SecretKeyClient
from gateway.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InvalidQuote,
    MalformedRequest,
    OrderAlreadyPaid,
    OrderConflict,
    OrderIdTaken,
    QuoteExpired,
    RequestTooLarge,
    StorageUnavailable,
    UnsupportedMediaType,
)
from gateway.http.authentication import scope_to_order
from gateway.http.body import describe, json_body
from gateway.http.call import Call
from gateway.http.idempotency import REPLAYED, documented_key, fingerprint, idempotency_key, once
from gateway.http.problems import upstream_responses
from gateway.http.quoting import admit_quoted
from gateway.http.routing import DirectRoute
from gateway.http.services import Services
from gateway.payments.checkout import Order
from gateway.payments.session import Session
from gateway.representations import BrowserCheckoutSession, CheckoutSession
from gateway.routes.checkout_sessions.models import (
    CheckoutSessionRequest,
    NewBrowserCheckoutSession,
    QuotedCheckoutSessionRequest,
)
from gateway.store.idempotency import Answer

router = APIRouter(route_class=DirectRoute, tags=["Checkout sessions"])

_read_priced = json_body(CheckoutSessionRequest)
_read_quoted = json_body(QuotedCheckoutSessionRequest)

_LOCATION = {"Location": {"description": "Where the session is.", "schema": {"type": "string"}}}


@router.post(
    "/checkout-sessions",
    summary="Create a checkout session",
    status_code=201,
    response_model=CheckoutSession | NewBrowserCheckoutSession,
    dependencies=[*scope_to_order("checkout-sessions:write"), Depends(documented_key)],
    openapi_extra=describe(CheckoutSessionRequest, QuotedCheckoutSessionRequest),
    responses={
        **upstream_responses(
            MalformedRequest,
            RequestTooLarge,
            UnsupportedMediaType,
            InvalidQuote,
            QuoteExpired,
            OrderIdTaken,
            OrderConflict,
            OrderAlreadyPaid,
            IdempotencyInProgress,
            IdempotencyKeyReused,
            StorageUnavailable,
        ),
        200: {
            "description": "The session that the order has already; to a publishable key only.",
            "model": NewBrowserCheckoutSession,
            "headers": _LOCATION,
        },
        201: {
            "headers": {
                **_LOCATION,
                "Idempotent-Replayed": {
                    "description": "`true` if this is the stored answer to an earlier request with the same key.",
                    "schema": {"type": "string", "enum": ["true"]},
                },
            }
        },
    },
)
async def create_checkout_session(call: Call) -> Response:
    """Make a payment page for a price that a server decided.

    **With a secret key** the caller is that server. On an error, `outcome` says whether QuantaPay may have made a
    page. Trying again is right either way: a page that was never answered was shown to nobody. With an
    `Idempotency-Key` that holds for a connection that broke, too: the same key and body get the same session.

    **With a publishable key** the body is a quote that the shop's server signed. An order has one session: asking
    again, also with a newer quote for the same price, gets the same one.
    """
    client = call.caller
    if isinstance(client, PublishableKeyClient):
        return await _find_or_make(call, client)
    key = idempotency_key(call)
    return await _make(call.services, client, key, await _read_priced(call))


async def _make(
    services: Services, client: SecretKeyClient, key: str | None, asked: CheckoutSessionRequest
) -> Response:
    order = Order(price=asked.price, currency=asked.currency, order_id=asked.order_id, metadata=asked.metadata)
    session: Session | None = None

    async def make() -> Answer:
        nonlocal session
        session = await services.checkout.make(client.id, order)
        return Answer(CheckoutSession.of(session).model_dump_json().encode(), _location(services, session.id))

    if key is None:
        answer, replayed = await make(), False
    else:
        answer, replayed = await once(services.idempotency, client.id, key, fingerprint(asked), make)
    if session is not None and not replayed:
        await services.checkout.publish(session)
    else:
        await services.checkout.publish_again(answer.location.rpartition("/")[2])
    headers = {"Location": answer.location, **(REPLAYED if replayed else {})}
    return Response(answer.body, status_code=201, headers=headers, media_type="application/json")


async def _find_or_make(call: Call, client: PublishableKeyClient) -> Response:
    services = call.services
    quoted = await admit_quoted(call, client, _read_quoted)
    order = Order(price=quoted.price, currency=quoted.currency.lower())
    session, is_new = await services.checkout.find_or_make(client.id, order, order_id=quoted.order_id)
    answer = NewBrowserCheckoutSession(
        **BrowserCheckoutSession.of(session).model_dump(),
        client_token=client_token(session.id, client.quote_secret[0]),
    )
    return _json(answer, status=201 if is_new else 200, location=_location(services, session.id))


def _json(answer: BaseModel, *, status: int, location: str) -> Response:
    return Response(
        answer.model_dump_json(), status_code=status, headers={"Location": location}, media_type="application/json"
    )


def _location(services: Services, session_id: str) -> str:
    return f"{services.public_url}/checkout-sessions/{session_id}"
