"""`GET /checkout-sessions/{id}/events`: a session as it changes, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from gateway.config import PublishableKeyClient
from gateway.errors import NotFound, StorageUnavailable, TooManyStreams
from gateway.http.admission import address_of
from gateway.http.authentication import Documented
from gateway.http.event_stream import MEDIA_TYPE, Event, EventStream
from gateway.http.parameters import refuse_odd_parameters
from gateway.http.problems import keyed_responses
from gateway.http.services import Services, ServicesDependency
from gateway.http.viewing import View, view
from gateway.representations import as_seen
from gateway.routes.checkout_sessions.retrieve import SessionId

router = APIRouter(tags=["Checkout sessions"], dependencies=[Depends(refuse_odd_parameters)])

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
async def watch_checkout_session(
    request: Request,
    session_id: SessionId,
    services: ServicesDependency,
    _documented: Documented,
    token: Annotated[
        str | None, Query(description="The session's token, for `EventSource`, which cannot send headers.")
    ] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Send a session to its own client with `checkout-sessions:read`, or to who holds its token.

    A comment comes every 15 s. The stream ends after a final status, after 30 minutes, and when the gateway stops;
    `retry:` then says after how many milliseconds to connect again.
    """
    seen = await view(request, services, session_id, token=token)
    if seen.session.status.is_final and last_event_id == str(seen.session.version):
        return Response(status_code=204)
    if getattr(request.state, "is_head", False):
        return EventStream.headers_only()
    slot = await services.slots.take(
        seen.client.id,
        subject=address_of(request, services) if seen.by_token else None,
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
