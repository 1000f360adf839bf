"""Who is calling, from where, and whether they may: the dependencies of every route with a key."""

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes

from gateway.access.origins import check_origin
from gateway.config import Client, PublishableKeyClient, SecretKeyClient
from gateway.errors import CallerError, InsufficientScope, Unauthenticated
from gateway.http.admission import admit, admit_refused
from gateway.http.parameters import refuse_odd_parameters
from gateway.http.services import Services, ServicesDependency
from gateway.telemetry.logs import annotate

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="Key",
    description="A secret key, `qsk_…`, for servers only; or where a route says so a publishable key, `qpk_…`, or "
    "the token of a checkout session, `cst_…`.",
)


def bearer_token(request: Request) -> str:
    """Return the token of the one `Authorization: Bearer` header, or nothing (RFC 6750 §2.1)."""
    headers = request.headers.getlist("authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def identify(request: Request, services: Services) -> Client:
    """Return the client whose key the request shows, at an origin where it may be used.

    Raises `Unauthenticated` or `OriginNotAllowed`.
    """
    client = services.keyring.client_of(bearer_token(request))
    if client is None:
        raise Unauthenticated
    annotate(client=client.id)
    request.state.client = client
    if isinstance(client, PublishableKeyClient):
        check_origin(client, request.headers.getlist("origin"), request.method)
    return client


def require(scopes: list[str], client: Client) -> None:
    """Raise `InsufficientScope` if `client` lacks one of `scopes`."""
    missing = sorted(set(scopes) - set(client.scopes))
    if missing:
        raise InsufficientScope(f"The key needs the scope {missing[0]}.")


async def authenticate(
    request: Request,
    required: SecurityScopes,
    services: ServicesDependency,
    _documented: Annotated[object, Depends(_bearer)],
) -> Client:
    """Return the client that calls, once its key, its origin, its rate and its scopes are found good, in this order.

    Raises `Unauthenticated`, `OriginNotAllowed`, `RateLimited` or `InsufficientScope`.
    """
    client = identify(request, services)
    await admit(request, services, client)
    require(required.scopes, client)
    return client


async def authenticate_orderer(
    request: Request,
    required: SecurityScopes,
    services: ServicesDependency,
    _documented: Annotated[object, Depends(_bearer)],
) -> Client:
    """Do as `authenticate`, but count a browser's request only once its quote is judged (`http/quoting.py`).

    What is refused before costs its address, like a quote that is refused.
    """
    client = identify(request, services)
    if isinstance(client, SecretKeyClient):
        await admit(request, services, client)
    try:
        require(required.scopes, client)
        refuse_odd_parameters(request)
    except CallerError:
        if isinstance(client, PublishableKeyClient):
            await admit_refused(request, services, client)
        raise
    return client


def caller(request: Request) -> Client:
    """Return the client that was found, for routes to which it matters."""
    client: Client = request.state.client
    return client


Caller = Annotated[Client, Depends(caller)]
Documented = Annotated[object, Depends(_bearer)]
"""For the specification: a route that looks at the bearer token itself."""


def scope(name: str) -> list[Any]:
    """Return the dependencies of a route that needs the scope `name`."""
    return [Security(authenticate, scopes=[name]), Depends(refuse_odd_parameters)]


def scope_to_order(name: str) -> list[Any]:
    """Return the dependencies of a route that needs the scope `name` and, of browsers, a quote."""
    return [Security(authenticate_orderer, scopes=[name])]
