"""A route that is served directly does, in order, what FastAPI says of it; and FastAPI does the same with it."""

from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Path, Query
from fastapi.security import SecurityScopes
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from gateway.clock import SystemClock
from gateway.errors import GatewayError, InsufficientScope
from gateway.http.call import Call
from gateway.http.middleware import AnswerHeaders
from gateway.http.problems import Problems
from gateway.http.routing import Direct, DirectRoute, Guard

SEEN: list[str] = []


class Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    page: int = 0


async def first(call: Call, required: SecurityScopes) -> None:
    SEEN.append(f"first {required.scopes}")
    if "x-refused" in call.headers:
        raise InsufficientScope


async def second(call: Call, required: SecurityScopes) -> None:
    SEEN.append("second")


def documented() -> None:
    SEEN.append("documentation was run")


router = APIRouter(
    route_class=DirectRoute,
    dependencies=[Guard(first, scopes=["a:read"]), Guard(second, scopes=["a:read"]), Depends(documented)],
)


@router.get("/things/{id}")
async def thing(call: Call, thing_id: Annotated[str, Path(alias="id")], query: Annotated[Page, Query()]) -> Response:
    SEEN.append("function")
    assert call.services == "services"
    return Response(f"{thing_id} {query.page}")


@router.post("/things")
async def make(call: Call) -> Response:
    return Response(await call.body())


def application(*, direct: bool) -> httpx.AsyncClient:
    problems = Problems("")
    app = FastAPI(redirect_slashes=False, exception_handlers={GatewayError: problems.on_gateway_error})
    app.state.services = "services"
    app.include_router(router)
    inner = Direct(app, routes=router.routes if direct else [], services="services", problems=problems)  # type: ignore[arg-type]  # routes only hand it on
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(AnswerHeaders(inner, clock=SystemClock())), base_url="http://gateway"
    )


@pytest.fixture(params=["directly", "through FastAPI"])
async def http(request):
    SEEN.clear()
    async with application(direct=request.param == "directly") as client:
        yield client


async def test_guards_come_in_order_then_parameters_then_the_function(http):
    answer = await http.get("/things/7?page=2")
    assert (answer.status_code, answer.text) == (200, "7 2")
    assert SEEN[:3] == ["first ['a:read']", "second", "function"]


async def test_who_is_refused_learns_nothing_of_his_parameters(http):
    answer = await http.get("/things/7?page=x&odd=1", headers={"X-Refused": "1"})
    assert answer.json()["code"] == "insufficient-scope"
    assert SEEN == ["first ['a:read']"]


async def test_bad_parameters_never_reach_the_function(http):
    answer = await http.get("/things/7?page=x")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "page")
    assert "function" not in SEEN


async def test_a_body_is_there_for_who_reads_it(http):
    assert (await http.post("/things", content=b"abc")).text == "abc"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/things/7/", 404),
        ("GET", "/things/", 404),
        ("GET", "//things/7", 404),
        ("GET", "/things/7/8", 404),
        ("GET", "/things/7%2F8", 404),
        ("GET", "/", 404),
        ("GET", "/things", 405),
        ("POST", "/things/7", 405),
        ("GET", "/things/%C3%A9", 200),
        ("GET", "/things/7%0A", 200),
    ],
)
async def test_paths_lead_where_fastapi_would_lead_them(http, method, path, status):
    assert (await http.request(method, path)).status_code == status


async def test_documentation_is_not_run_on_the_direct_way():
    SEEN.clear()
    async with application(direct=True) as client:
        await client.get("/things/7")
    assert "documentation was run" not in SEEN
