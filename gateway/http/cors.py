"""Cross-origin requests: which pages may read an answer (Fetch standard §3.2, interface §5).

A preflight carries no key, so it is answered for the origins of all clients together. The request itself is answered
for the origins of its own client; a request that shows no client, for those of all, so that a page can read why it
was refused. Credentials (cookies) are never allowed. None of this protects the gateway: the key, the origin and the
quote are checked by `http/authentication.py`, whatever a browser would do.
"""

from collections.abc import Awaitable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import OriginNotAllowed
from gateway.http import headers
from gateway.http.authentication import bearer_token
from gateway.http.problems import Problems
from gateway.http.services import Services

ALLOWED_METHODS = "GET, HEAD, POST"
ALLOWED_HEADERS = "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Request-Id, traceparent"
EXPOSED_HEADERS = "Location, Retry-After, X-Request-Id, ETag, Age, Cache-Status"
MAX_AGE = "600"
"""Seconds for which a browser keeps the answer to a preflight."""

_ALLOW_ORIGIN = b"access-control-allow-origin"
_EXPOSED = (b"access-control-expose-headers", EXPOSED_HEADERS.encode())
_VARY = (b"vary", b"Origin, Authorization")


class Cors:
    """Answers preflights, and lets pages of the right origins read every other answer, errors included."""

    def __init__(self, app: ASGIApp, *, services: Services, problems: Problems) -> None:
        self._app = app
        self._services = services
        self._problems = problems

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        scope["state"]["answer_headers"].append(_VARY)
        origins = headers.all_of(scope, b"origin")
        if len(origins) != 1:  # no page asks
            return self._app(scope, receive, send)
        [origin] = origins

        def send_readable(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                # What is public to all pages says so itself.
                is_public = any(name == _ALLOW_ORIGIN for name, _ in message["headers"])
                if not is_public and self._may_read(scope, origin):
                    allowed = [(_ALLOW_ORIGIN, origin.encode("latin-1")), _EXPOSED]
                    message["headers"] = [*message["headers"], *allowed]
            return send(message)

        if scope["method"] == "OPTIONS" and headers.first_of(scope, b"access-control-request-method") is not None:
            return self._preflight(scope, origin)(scope, receive, send_readable)
        return self._app(scope, receive, send_readable)

    def _preflight(self, scope: Scope, origin: str) -> Response:
        if not self._services.origins.allows_anyone(origin):
            return self._problems.response(OriginNotAllowed("No client has this origin."), Request(scope))
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": ALLOWED_METHODS,
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": MAX_AGE,
                "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
            },
        )

    def _may_read(self, scope: Scope, origin: str) -> bool:
        # A token's client is only known to the route that found its session.
        client = scope["state"].get("caller") or self._services.keyring.client_of(bearer_token(scope))
        if client is None:
            return self._services.origins.allows_anyone(origin)
        return self._services.origins.is_allowed(client, origin)
