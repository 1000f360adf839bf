"""`GET /checkout-sessions/{id}`: how far a payment is."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from gateway.errors import NotFound, StorageUnavailable
from gateway.http.authentication import bearer
from gateway.http.call import Call
from gateway.http.problems import keyed_responses
from gateway.http.routing import DirectRoute
from gateway.http.viewing import view
from gateway.representations import BrowserCheckoutSession, CheckoutSession, as_seen

router = APIRouter(route_class=DirectRoute, tags=["Checkout sessions"], dependencies=[Depends(bearer)])

SessionId = Annotated[str, Path(alias="id", examples=["cs_5f0c8b1d4e2a49769cde83b0a1f4d7e6"])]


@router.get(
    "/checkout-sessions/{id}",
    summary="Retrieve a checkout session",
    response_model=CheckoutSession | BrowserCheckoutSession,
    responses=keyed_responses(NotFound, StorageUnavailable),
)
async def retrieve_checkout_session(call: Call, session_id: SessionId) -> Response:
    """Return a session for 30 days: to its own client with `checkout-sessions:read`, or to who holds its token."""
    seen = await view(call, session_id)
    return Response(as_seen(seen.session, by_token=seen.by_token), media_type="application/json")
