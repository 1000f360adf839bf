"""What happens around every request, as small pure-ASGI classes, outermost first.

Not Starlette's `BaseHTTPMiddleware`: it costs a task group a request and breaks cancellation. What only looks at a
request or at a message, and hands it on, is a plain function that returns what is to be awaited: a coroutine of its own
would have to be made, and gone through each time the request goes on.
"""

import re
from collections.abc import Awaitable, Mapping

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.clock import Clock
from gateway.errors import InternalError
from gateway.http import headers
from gateway.http.problems import Problems
from gateway.lifecycle import Lifecycle, Phase
from gateway.telemetry.logs import frames_of, open_record, write_request
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Span, Tracer, root

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")
_SERVER_ERROR = 500
_CLIENT_GONE = 499
"""What nginx logs for a caller that hung up before there was an answer."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AnswerHeaders:
    """Gives a request its id, and every answer the headers that all have (interface §5).

    While the gateway drains, an answer tells whoever keeps the connection that it is the last (RFC 9112 §9.6).
    Otherwise a proxy could send the next request just when the connection ends, and could not know what became of it.
    """

    def __init__(self, app: ASGIApp, *, clock: Clock, lifecycle: Lifecycle | None = None) -> None:
        self._app = app
        self._clock = clock
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is inside adds to `answer_headers` what its errors must carry too.

        Keeps beside the request its `headers`, and the `status` of its answer once that is on its way.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"] = {**scope.get("state", {}), "headers": headers.keep(scope)}
        given = headers.first_of(scope, b"x-request-id") or ""
        request_id = state["request_id"] = given if _REQUEST_ID.fullmatch(given) else self._clock.token_hex(16)
        answer_headers = state["answer_headers"] = [(b"x-request-id", request_id.encode()), _NOSNIFF]

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                message["headers"] = self._complete([*message["headers"], *answer_headers])
            return send(message)

        await self._app(scope, receive, send_with_headers)

    def _complete(self, answer: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if b"cache-control" not in dict(answer):
            answer.append(_NO_STORE)
        if self._lifecycle is not None and self._lifecycle.phase is Phase.DRAINING:
            answer.append(_CLOSE)
        return answer


class RequestRecord:
    """Writes one log line a request and counts it (interface §6). Needs `AnswerHeaders` around it."""

    def __init__(self, app: ASGIApp, *, clock: Clock, metrics: Metrics, tracer: Tracer | None) -> None:
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what happened inside adds to its line by `annotate`, and spans to its trace."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        traceparent = headers.first_of(scope, b"traceparent")
        with root(self._tracer, "request", kind="server", traceparent=traceparent) as request:
            record = open_record()
            started = self._clock.monotonic()
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.http_requests_in_flight.inc()
            try:
                await self._app(scope, receive, send)
            finally:
                self._metrics.http_requests_in_flight.dec()
                self._tell(scope, request, method, self._clock.monotonic() - started, record)

    def _tell(self, scope: Scope, request: Span, method: str, seconds: float, record: Mapping[str, object]) -> None:
        status = scope["state"].get("status", _CLIENT_GONE)
        route = _route(scope)
        self._count(route, method, status, seconds, record)
        if self._tracer is not None:
            _describe(request, route, method, status, record)
        write_request(
            {
                "request_id": scope["state"]["request_id"],
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
                **record,
            }
        )

    def _count(self, route: str, method: str, status: int, seconds: float, record: Mapping[str, object]) -> None:
        labels = route, method, str(status)
        self._metrics.http_requests[labels].inc()
        self._metrics.http_request_duration[labels].observe(seconds)
        code, client = record.get("code"), record.get("client")
        if isinstance(code, str):
            self._metrics.problems[code,].inc()
        if isinstance(client, str):
            label = self._metrics.client_label(client)
            self._metrics.client_requests[label, f"{status // 100}xx"].inc()


def _describe(request: Span, route: str, method: str, status: int, record: Mapping[str, object]) -> None:
    request.name(f"{method} {route}")
    request.set({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    code, client = record.get("code"), record.get("client")
    if isinstance(client, str):
        request.set({"gateway.client": client})
    if isinstance(code, str):
        request.set({"gateway.code": code})
        if status >= _SERVER_ERROR:  # what a caller did wrong is no failure of the server's (OpenTelemetry, HTTP spans)
            request.fail(code)


class CatchBugs:
    """Turns an exception that nobody expected into a problem, and a log line without its text.

    Needs `AnswerHeaders` around it.
    """

    def __init__(self, app: ASGIApp, *, problems: Problems) -> None:
        self._app = app
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an answer already under way is cut off, as there is nothing better."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is there to be answered, and it is no fault of ours
        except Exception as error:
            state = scope.get("state", {})
            request_id = state.get("request_id")
            log.error("bug", request_id=request_id, error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
            if scope["type"] != "http":
                raise  # the server is starting, and must not go on
            if "status" not in state:
                answer = self._problems.response(InternalError(), Request(scope))
                await answer(scope, receive, send)


class HeadAsGet:
    """Serves HEAD wherever GET is served: the same answer without its body (RFC 9110 §9.3.2).

    Needs `AnswerHeaders` around it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self._app(scope, receive, send)
        scope["method"] = "GET"
        scope["state"]["is_head"] = True

        def send_without_body(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                scope["method"] = "HEAD"  # the server looks here too, to know that no body will come
            else:
                message = {**message, "body": b""}
            return send(message)

        return self._app(scope, receive, send_without_body)


def _route(scope: Scope) -> str:
    """Return the template of the route that answered, such as `/transactions/{id}`."""
    return getattr(scope.get("route"), "path", "unmatched")
