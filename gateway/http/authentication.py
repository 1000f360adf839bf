"""Who is calling, from where, and whether they may: the guards of every route with a key."""

from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.types import Scope

from gateway.access.origins import check_origin
from gateway.config import Client, PublishableKeyClient, SecretKeyClient
from gateway.errors import CallerError, InsufficientScope, Unauthenticated
from gateway.http import headers
from gateway.http.admission import admit, admit_refused
from gateway.http.call import Call
from gateway.http.parameters import refuse_any
from gateway.http.routing import Guard
from gateway.telemetry.logs import annotate

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="Key",
    description="A secret key, `qsk_…`, for servers only; or where a route says so a publishable key, `qpk_…`, or "
    "the token of a checkout session, `cst_…`.",
)
"""For the specification; what a request shows is read by `bearer_token`."""


def bearer_token(scope: Scope) -> str:
    """Return the token of the one `Authorization: Bearer` header, or nothing (RFC 6750 §2.1)."""
    shown = headers.all_of(scope, b"authorization")
    scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def identify(call: Call) -> Client:
    """Return the client whose key the request shows, at an origin where it may be used.

    Raises `Unauthenticated` or `OriginNotAllowed`.
    """
    client = call.services.keyring.client_of(bearer_token(call.scope))
    if client is None:
        raise Unauthenticated
    annotate(client=client.id)
    call.caller = client
    if isinstance(client, PublishableKeyClient):
        check_origin(client, headers.all_of(call.scope, b"origin"), call.method)
    return client


def require(scopes: list[str], client: Client) -> None:
    """Raise `InsufficientScope` if `client` lacks one of `scopes`."""
    for scope in scopes:
        if scope not in client.scopes:
            raise InsufficientScope(f"The key needs the scope {scope}.")


async def authenticate(call: Call, required: SecurityScopes) -> None:
    """Let through a client whose key, origin, rate and scopes are found good, in this order.

    Raises `Unauthenticated`, `OriginNotAllowed`, `RateLimited` or `InsufficientScope`.
    """
    client = identify(call)
    await admit(call, client)
    require(required.scopes, client)


async def authenticate_orderer(call: Call, required: SecurityScopes) -> None:
    """Do as `authenticate`, but count a browser's request only once its quote is judged (`http/quoting.py`).

    What is refused before costs its address, like a quote that is refused.
    """
    client = identify(call)
    if isinstance(client, SecretKeyClient):
        await admit(call, client)
    try:
        require(required.scopes, client)
        refuse_any(call.scope["query_string"])
    except CallerError:
        if isinstance(client, PublishableKeyClient):
            await admit_refused(call, client)
        raise


def scope(name: str) -> list[Any]:
    """Return the dependencies of a route that needs the scope `name`."""
    return [Guard(authenticate, scopes=[name]), Security(bearer, scopes=[name])]


def scope_to_order(name: str) -> list[Any]:
    """Return the dependencies of a route that needs the scope `name` and, of browsers, a quote."""
    return [Guard(authenticate_orderer, scopes=[name]), Security(bearer, scopes=[name])]
