"""`GET /checkout-sessions/{id}/events`: a session as it changes, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.config import PublishableKeyClient
from gateway.errors import NotFound, StorageUnavailable, TooManyStreams
from gateway.http.admission import address_of
from gateway.http.authentication import bearer
from gateway.http.call import Call
from gateway.http.event_stream import MEDIA_TYPE, Event, EventStream
from gateway.http.headers import first_of
from gateway.http.problems import keyed_responses
from gateway.http.routing import DirectRoute
from gateway.http.services import Services
from gateway.http.viewing import View, view
from gateway.representations import as_seen
from gateway.routes.checkout_sessions.retrieve import SessionId


class WatchQuery(BaseModel):
    """How a page that cannot send headers shows its token."""

    model_config = ConfigDict(extra="forbid")

    token: Annotated[
        str | None, Field(description="The session's token, for `EventSource`, which cannot send headers.")
    ] = None


def resumption(_last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None) -> None:
    """Declare the header that a reader comes back with; the route looks at it."""


router = APIRouter(
    route_class=DirectRoute, tags=["Checkout sessions"], dependencies=[Depends(bearer), Depends(resumption)]
)

MOST_STREAMS = 200
"""Open streams of a client with a secret key, for which gateway.yaml has no setting."""


@router.get(
    "/checkout-sessions/{id}/events",
    summary="Watch a checkout session",
    response_class=Response,
    responses={
        **keyed_responses(NotFound, TooManyStreams, StorageUnavailable),
        200: {
            "description": "Events named `session`; `id` is the session's version, `data` the whole session. The "
            "current one comes first, then one a change, until a final status.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        204: {"description": "The session is final, and the caller has seen it (`Last-Event-ID`)."},
    },
)
async def watch_checkout_session(call: Call, session_id: SessionId, query: Annotated[WatchQuery, Query()]) -> Response:
    """Send a session to its own client with `checkout-sessions:read`, or to who holds its token.

    A comment comes every 15 s. The stream ends after a final status, after 30 minutes, and when the gateway stops;
    `retry:` then says after how many milliseconds to connect again.
    """
    services = call.services
    seen = await view(call, session_id, token=query.token)
    if seen.session.status.is_final and first_of(call.scope, b"last-event-id") == str(seen.session.version):
        return Response(status_code=204)
    if call.scope["state"].get("is_head"):
        return EventStream.headers_only()
    slot = await services.slots.take(
        seen.client.id,
        subject=address_of(call) if seen.by_token else None,
        session_id=seen.session.id,
        most=seen.client.max_streams if isinstance(seen.client, PublishableKeyClient) else MOST_STREAMS,
    )
    return EventStream(
        _events(services, seen),
        clock=services.clock,
        draining=services.lifecycle.draining,
        on_close=slot.release,
    )


async def _events(services: Services, seen: View) -> AsyncIterator[Event]:
    async with services.watches.open(seen.session) as watch:
        session = watch.session
        while True:
            yield Event("session", id=str(session.version), data=as_seen(session, by_token=seen.by_token))
            if session.status.is_final:
                return
            session = await watch.changed(session.version)
            if not seen.is_still_good(services):
                return  # who connects again is told why
