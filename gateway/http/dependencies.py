"""What a route may ask for: the services of the process, and a caller who may be here."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes

from gateway.access.keys import Keyring
from gateway.access.limits import RateLimiter, client_limit
from gateway.clock import Clock
from gateway.config import Config, SecretKeyClient
from gateway.errors import (
    FieldFault,
    FunctionNotSupported,
    GatewayError,
    InsufficientScope,
    InternalError,
    Overloaded,
    RateLimited,
    Unauthenticated,
    UpstreamBudgetExhausted,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
    ValidationFailed,
)
from gateway.http.problems import responses
from gateway.lifecycle import Lifecycle
from gateway.quantapay.client import QuantaPay
from gateway.store.cache import Cache
from gateway.store.idempotency import Idempotency
from gateway.store.orders import Orders
from gateway.telemetry.logs import annotate

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="SecretKey",
    description="A secret key, `qsk_…`. For servers only: never in a browser.",
)


@dataclass(slots=True)
class Services:
    """Everything that requests share. Made by `gateway.app`; `config` and `keyring` follow gateway.yaml."""

    account: str
    """Names the merchant's account in cache keys."""
    cache: Cache
    clock: Clock
    config: Config
    idempotency: Idempotency
    keyring: Keyring
    lifecycle: Lifecycle
    limiter: RateLimiter
    orders: Orders
    public_url: str
    """What links start with; empty makes them relative."""
    quantapay: QuantaPay


def services(request: Request) -> Services:
    """Return the services of the application that got the request."""
    found: Services = request.app.state.services
    return found


ServicesDependency = Annotated[Services, Depends(services)]


async def authenticate(
    request: Request,
    required: SecurityScopes,
    shared: ServicesDependency,
    _documented: Annotated[object, Depends(_bearer)],
) -> SecretKeyClient:
    """Return the client that calls, once its key, its rate and its scopes are found good, in this order.

    Raises `Unauthenticated`, `RateLimited` or `InsufficientScope`.
    """
    client = shared.keyring.client_of(_bearer_token(request))
    if client is None:
        raise Unauthenticated
    annotate(client=client.id)
    decision = await shared.limiter.take([client_limit(client.id, client.rate_limit)])
    headers = decision.headers()
    request.state.answer_headers.update(headers)
    if not decision.allowed:
        raise RateLimited(retry_after=int(headers["Retry-After"]))
    missing = sorted(set(required.scopes) - set(client.scopes))
    if missing:
        raise InsufficientScope(f"The key needs the scope {missing[0]}.")
    request.state.client = client
    return client


def caller(request: Request) -> SecretKeyClient:
    """Return the client that `authenticate` found, for routes to which it matters."""
    client: SecretKeyClient = request.state.client
    return client


Caller = Annotated[SecretKeyClient, Depends(caller)]


def _bearer_token(request: Request) -> str:
    """Return the token of the one `Authorization: Bearer` header, or nothing (RFC 6750 §2.1)."""
    headers = request.headers.getlist("authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def refuse_odd_parameters(request: Request) -> None:
    """Refuse a query parameter that the specification does not declare, or that is there twice.

    Of two with one name, which counts would be anyone's guess; an unknown one is a typing error at best.
    """
    if not request.url.query:
        return
    operation = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    declared = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in declared:
            raise ValidationFailed(faults=[FieldFault("This name is not known here.", parameter=name[:120])])
        if name in seen:
            raise ValidationFailed(faults=[FieldFault("This may be given only once.", parameter=name)])
        seen.add(name)


def scope(name: str) -> list[Any]:
    """Return the dependencies of a route that needs the scope `name`."""
    return [Security(authenticate, scopes=[name]), Depends(refuse_odd_parameters)]


_KEYED = (Unauthenticated, InsufficientScope, ValidationFailed, RateLimited, InternalError)
_UPSTREAM = (
    FunctionNotSupported,
    UpstreamRejected,
    UpstreamInvalidResponse,
    UpstreamCredentialsRejected,
    UpstreamClockSkew,
    UpstreamThrottled,
    UpstreamUnavailable,
    UpstreamBudgetExhausted,
    Overloaded,
    UpstreamTimeout,
)


def upstream_responses(*others: type[GatewayError]) -> dict[int | str, dict[str, Any]]:
    """Declare what a keyed route that calls QuantaPay can answer besides its success."""
    return responses(*_KEYED, *_UPSTREAM, *others)
