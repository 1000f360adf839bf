"""`/sdk/v1.js` and its types: public code, for any page that takes payments."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from gateway.errors import NotFound
from gateway.http.etags import has_it

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES: Mapping[str, str] = {
    "v1.js": "text/javascript",
    "v1.d.ts": "text/plain",  # TypeScript's files have no registered type, and this one a browser shows
}
_HEADERS = {
    # A page on any origin may load it: module scripts are fetched by CORS, and pages under COEP ask for the second.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "public, max-age=3600",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    etag: str


@router.get("/sdk/{name}")
async def sdk_file(name: str, request: Request) -> Response:
    """Return a file of the SDK, or 304 if the caller has it (RFC 9110 §13.1.2)."""
    if name not in _MEDIA_TYPES:
        raise NotFound
    file = _read(name)
    headers = {**_HEADERS, "ETag": file.etag}
    if has_it(request.headers.get("if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=_MEDIA_TYPES[name], headers=headers)


@cache
def _read(name: str) -> _File:
    """Read a file, once: every visitor of a shop asks for it."""
    content = files("gateway.sdk").joinpath(name).read_bytes()
    return _File(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
