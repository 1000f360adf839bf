"""Routes that FastAPI describes and we serve: the way of every request with a key.

FastAPI's own way costs more than all that the gateway does for a cached read: a search through every route, two exit
stacks, a solver for dependencies. Here a request takes four steps, the same on every route:

1. its route is found, by the first segment of the path;
2. its guards, in order, are called with the request and their scopes;
3. its parameters are read (`parameters.py`);
4. its function answers, or an error of ours does.

What FastAPI reads for the specification stays where it was: signature, `dependencies`, `response_model`, `responses`.
Other dependencies only document. docs/adr/0014 has the figures.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import Request
from fastapi.params import Security
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.http.call import Call
from gateway.http.parameters import Parameters
from gateway.http.problems import Problems
from gateway.http.services import Services


@dataclass(frozen=True)
class Guard(Security):
    """A dependency that lets a request through to its route, or raises a `GatewayError`.

    `dependency` is a coroutine function of a `Call` and of the `SecurityScopes` that the route needs.
    """


class DirectRoute(APIRoute):
    """A route whose function takes a `Call`, and perhaps what its path and its query hold; it returns a `Response`."""

    takes_any_query: ClassVar[bool] = False
    """Whether a query that the function does not read is ignored, and not refused as a mistake."""

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        """Read the signature; raise `TypeError` for one that cannot be served."""
        super().__init__(path, endpoint, **options)
        self._answer = endpoint
        self._guards: list[tuple[Callable[..., Any], SecurityScopes]] = [
            (guard.dependency, SecurityScopes(list(guard.scopes or ())))
            for guard in self.dependencies
            if isinstance(guard, Guard) and guard.dependency is not None
        ]
        self._parameters = Parameters(self.dependant, any_query=self.takes_any_query)

    async def answer(self, call: Call, path: Mapping[str, str]) -> Response:
        """Answer a request, whose path holds these parameters. Raises `GatewayError`s."""
        for guard, scopes in self._guards:
            await guard(call, scopes)
        arguments = self._parameters.read(path, call.scope["query_string"])
        return await self._answer(call, **arguments)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # a coroutine function is one
        """Do the same where a request comes through FastAPI after all."""

        async def answer(request: Request) -> Response:
            call = Call(request.scope, request.receive, request.app.state.services)
            return await self.answer(call, request.path_params)

        return answer


class AddressedRoute(DirectRoute):
    """A route whose whole address, query and all, was entered somewhere else, such as in QuantaPay's settings."""

    takes_any_query = True


class Direct:
    """Hands requests to the `DirectRoute`s among `routes`, and all others to the application within."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[object], services: Services, problems: Problems) -> None:
        self._app = app
        self._services = services
        self._problems = problems
        self._by_segment: defaultdict[str, list[DirectRoute]] = defaultdict(list)
        for route in routes:
            if isinstance(route, DirectRoute):
                self._by_segment[_first_segment(route.path)].append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            for route in self._by_segment.get(_first_segment(scope["path"]), ()):
                found = route.path_regex.match(scope["path"])
                if found and scope["method"] in (route.methods or ()):
                    scope["route"] = route
                    call = Call(scope, receive, self._services)
                    try:
                        response = await route.answer(call, found.groupdict())
                    except GatewayError as error:
                        response = self._problems.response(error, call)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]
