"""Who may look at a checkout session: its own client with a secret key, or who holds its token (interface §3.5)."""

import re
from dataclasses import dataclass, field

from gateway.access.tokens import is_token, opens
from gateway.config import Client, PublishableKeyClient
from gateway.errors import NotFound
from gateway.http.admission import admit, admit_refused
from gateway.http.authentication import bearer_token, identify, require
from gateway.http.call import Call
from gateway.http.services import Services
from gateway.payments.session import Session
from gateway.telemetry.logs import annotate

SCOPE = "checkout-sessions:read"

_ID = re.compile(r"cs_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class View:
    """A session, and who looks at it."""

    session: Session
    client: Client
    """Whose session it is."""
    by_token: bool
    """A browser that holds the session's token, and not the client itself."""
    credential: str = field(repr=False)
    """What was shown: the token, or the client's key."""

    def is_still_good(self, services: Services) -> bool:
        """Tell whether the same would be seen now: keys, secrets and clients can leave the configuration meanwhile."""
        if self.by_token:
            return _opener(services, self.session, self.credential) is not None
        client = services.keyring.client_of(self.credential)
        return client is not None and client.id == self.session.client_id and SCOPE in client.scopes


async def view(call: Call, session_id: str, *, token: str | None = None) -> View:
    """Return the session if the caller may see it; `token` is one that came otherwise than as bearer.

    A session that is not there, another client's and a wrong token get the same `NotFound`. Raises besides what
    `identify` and `require` raise, `RateLimited`, and `StorageUnavailable`.
    """
    bearer = bearer_token(call.scope)
    shown = token if token is not None and not bearer else bearer
    if is_token(shown):
        return await _by_token(call, session_id, shown)
    client = identify(call)
    await admit(call, client)
    require([SCOPE], client)
    session = await _find(call.services, session_id)
    if session is None or session.client_id != client.id:
        raise NotFound
    return View(session, client, by_token=False, credential=shown)


async def _by_token(call: Call, session_id: str, token: str) -> View:
    session = await _find(call.services, session_id)
    client = None if session is None else _opener(call.services, session, token)
    if session is None or client is None:
        # Counted by nobody's limit, whether there is a session or not: the answer must not tell.
        await admit_refused(call, None)
        raise NotFound
    annotate(client=client.id)
    call.caller = client
    await admit(call, client)
    return View(session, client, by_token=True, credential=token)


def _opener(services: Services, session: Session, token: str) -> PublishableKeyClient | None:
    """Return the client whose session `token` opens, if it does."""
    client = services.keyring.client(session.client_id)
    if isinstance(client, PublishableKeyClient) and opens(token, session.id, client.quote_secret):
        return client
    return None


async def _find(services: Services, session_id: str) -> Session | None:
    return await services.sessions.get(session_id) if _ID.fullmatch(session_id) else None
