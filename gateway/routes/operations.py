"""For load balancers and people: is it alive, is it ready, what does it offer, what does an error mean."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.errors import NotFound, NotReady
from gateway.http.problems import PROBLEM_TYPES, explanation, responses
from gateway.http.services import ServicesDependency
from gateway.lifecycle import Phase

router = APIRouter(tags=["Operations"])
docs_router = APIRouter(include_in_schema=False)

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
_DOCS_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; frame-ancestors 'none'"
    )
}
_DAY = {"Cache-Control": "public, max-age=86400"}
_ASSETS: Mapping[str, tuple[str, str]] = {
    "swagger-ui.css": ("fastapi_offline", "text/css"),
    "swagger-ui-bundle.js": ("fastapi_offline", "text/javascript"),
    "docs.js": ("gateway.http", "text/javascript"),
}


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Health:
    """Answer while the event loop turns, whatever else is wrong."""
    return Health()


@router.get("/readyz", summary="May traffic be sent here?", responses=responses(NotReady))
async def readyz(services: ServicesDependency) -> Health:
    """Answer 200 once started and until draining; never depends on Redis or QuantaPay."""
    phase = services.lifecycle.phase
    if phase is not Phase.READY:
        raise NotReady(f"The gateway is {phase}.", retry_after=1)
    return Health()


@router.get(
    "/problems/{code}",
    summary="What does a problem mean?",
    response_class=HTMLResponse,
    responses=responses(NotFound),
)
async def explain_problem(
    code: Annotated[str, Path(examples=["validation-failed"])],
) -> HTMLResponse:
    """Return the page behind a problem's `type` link."""
    error = PROBLEM_TYPES.get(code)
    if error is None:
        raise NotFound("There is no problem with this code.")
    return HTMLResponse(explanation(error), headers=_PAGE_HEADERS | _DAY)


@docs_router.get("/openapi.json")
async def openapi_json(request: Request) -> Response:
    """Return the specification."""
    return JSONResponse(await run_in_threadpool(request.app.openapi))  # the first time it takes a tenth of a second


@docs_router.get("/docs")
async def docs() -> HTMLResponse:
    """Return Swagger UI, its assets served from here."""
    return HTMLResponse(_read("gateway.http", "docs/index.html"), headers=_DOCS_HEADERS)


@docs_router.get("/docs/{asset}")
async def docs_asset(asset: str) -> Response:
    """Return one of the few files that the page loads."""
    known = _ASSETS.get(asset)
    if known is None:
        raise NotFound
    package, media_type = known
    folder = "static" if package == "fastapi_offline" else "docs"
    return Response(_read(package, f"{folder}/{asset}"), media_type=media_type, headers=_DAY)


@cache
def _read(package: str, path: str) -> bytes:
    """Read a file of a package, once: anyone may ask for these, and often."""
    return files(package).joinpath(path).read_bytes()
