"""`GET /checkout-sessions/{id}`: how far a payment is."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from gateway.errors import NotFound, StorageUnavailable
from gateway.http.authentication import Documented
from gateway.http.parameters import refuse_odd_parameters
from gateway.http.problems import keyed_responses
from gateway.http.services import ServicesDependency
from gateway.http.viewing import view
from gateway.representations import BrowserCheckoutSession, CheckoutSession, as_seen

router = APIRouter(tags=["Checkout sessions"], dependencies=[Depends(refuse_odd_parameters)])

SessionId = Annotated[str, Path(alias="id", examples=["cs_5f0c8b1d4e2a49769cde83b0a1f4d7e6"])]


@router.get(
    "/checkout-sessions/{id}",
    summary="Retrieve a checkout session",
    response_model=CheckoutSession | BrowserCheckoutSession,
    responses=keyed_responses(NotFound, StorageUnavailable),
)
async def retrieve_checkout_session(
    request: Request, session_id: SessionId, services: ServicesDependency, _documented: Documented
) -> Response:
    """Return a session for 30 days: to its own client with `checkout-sessions:read`, or to who holds its token."""
    seen = await view(request, services, session_id)
    return Response(as_seen(seen.session, by_token=seen.by_token), media_type="application/json")
