"""Reads of QuantaPay as cached answers: freshness, validators and where an answer came from (interface §5).

A read is fetched, written down as the JSON that callers get, and kept as those bytes. The headers tell how old they
are (RFC 9111), whether the caller has them already (RFC 9110 §13), and whether QuantaPay was asked (RFC 9211).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from gateway.config import SecretKeyClient
from gateway.errors import UpstreamError, UpstreamRejected
from gateway.http.answer import Answer
from gateway.http.call import Call
from gateway.http.etags import has_it
from gateway.http.headers import first_of
from gateway.http.problems import upstream_responses
from gateway.quantapay.functions import Function
from gateway.quantapay.guard import REFUSALS
from gateway.store.cache import CacheKey, Fetched, Found, Served

JSON = (b"content-type", b"application/json")
REFUSAL_REMEMBERED = 60.0
"""Seconds for which a pair that QuantaPay refused is not asked for again (interface §3.3)."""

_NAME = "quantapay-gateway"
_REFUSED = b"!"
"""What a remembered refusal begins with; no ETag does."""
_VOLATILE = "retrieved_at"


class Document(NamedTuple):
    """An answer as it will be sent, and a validator that changes when what matters in it does."""

    body: bytes
    etag: bytes

    @classmethod
    def of(cls, model: BaseModel) -> "Document":
        """Write a model down; its weak ETag ignores when it was retrieved."""
        what_matters = model.model_dump_json(exclude={_VOLATILE}).encode()
        return cls(model.model_dump_json().encode(), b'W/"%b"' % hashlib.sha256(what_matters).hexdigest()[:32].encode())

    def to_bytes(self) -> bytes:
        """Return what the cache keeps."""
        return self.etag + b"\n" + self.body

    @classmethod
    def from_bytes(cls, value: bytes) -> "Document":
        """Read what `to_bytes` wrote."""
        etag, _, body = value.partition(b"\n")
        return cls(body, etag)


class Read(NamedTuple):
    """What was found, and how."""

    document: Document
    found: Found

    def with_body(self, model: BaseModel) -> "Read":
        """Return the same read, answered with something made of it."""
        return Read(Document.of(model), self.found)


class Reads(NamedTuple):
    """The reads that one request makes."""

    call: Call

    async def find(
        self,
        function: Function[Any],
        parameters: Mapping[str, str] | None = None,
        *,
        kind: str,
        fresh_for: float,
        fetch: Callable[[], Awaitable[BaseModel]],
        remember_refusals: bool = False,
    ) -> Read:
        """Return what `fetch` gives, or gave another request less than `fresh_for` seconds ago.

        `kind` tells apart what is made of the same function and parameters. Raises what `fetch` raises, unless an
        answer that is stale by at most five minutes can stand in for a failure.
        """

        async def write_down() -> Fetched:
            try:
                model = await fetch()
            except UpstreamRejected as error:
                if not remember_refusals:
                    raise
                return Fetched(_REFUSED + (error.upstream_code or "").encode(), fresh_for=REFUSAL_REMEMBERED)
            return Fetched(Document.of(model).to_bytes())

        found = await self.call.services.cache.read(
            self._key(function, kind, parameters or {}), fresh_for=fresh_for, fetch=write_down, force=self._is_forced()
        )
        if found.value.startswith(_REFUSED):
            raise UpstreamRejected(upstream_code=found.value.removeprefix(_REFUSED).decode() or None)
        return Read(Document.from_bytes(found.value), found)

    def answer(self, read: Read) -> Response:
        """Answer with a read, or with 304 if the caller has it. The caller is authorized by now."""
        found, document = read.found, read.document
        headers = [(b"cache-status", self._cache_status(found).encode())]
        if found.fresh_for:
            headers += (
                (b"cache-control", b"private, max-age=%d" % round(found.fresh_for)),
                (b"age", b"%d" % round(found.age)),
                (b"etag", document.etag),
            )
            given = first_of(self.call.scope, b"if-none-match")
            if given is not None and has_it(given, document.etag.decode()):
                return Answer(304, headers)
        headers.append(JSON)
        return Answer(200, headers, document.body)

    def _key(self, function: Function[Any], kind: str, parameters: Mapping[str, str]) -> CacheKey:
        # Each with its length, so that no two read alike; in the order of the route.
        given = "".join([f"|{name}={len(value)}:{value}" for name, value in parameters.items()])
        return CacheKey(function.name, f"{self.call.services.account}|{function.name}|{kind}{given}")

    def _is_forced(self) -> bool:
        """Tell whether a server asks for a call; a browser cannot, as every call is one of few."""
        given = first_of(self.call.scope, b"cache-control")
        if given is None or not isinstance(self.call.caller, SecretKeyClient):
            return False
        directives = given.lower().split(",")
        return "no-cache" in (directive.strip() for directive in directives)

    def _cache_status(self, found: Found) -> str:
        """Say how the answer came about (RFC 9211)."""
        stored = found.fresh_for > 0
        if found.failure is not None:
            return f"{_NAME}; {_staleness(found, found.failure)}"
        if found.served is Served.HIT:
            return f"{_NAME}; hit; ttl={int(found.fresh_for - found.age)}"
        forwarded = "fwd=miss" if stored else "fwd=bypass"
        if found.served is Served.COLLAPSED:
            return f"{_NAME}; {forwarded}; collapsed"
        if self._is_forced():
            forwarded = "fwd=request"
        return f"{_NAME}; {forwarded}; stored" if stored else f"{_NAME}; {forwarded}"


def conditions(
    _if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="An `ETag` that the caller has: 304 if still right.")
    ] = None,
    _cache_control: Annotated[
        str | None, Header(alias="Cache-Control", description="`no-cache` asks QuantaPay whatever is stored.")
    ] = None,
) -> None:
    """Declare the headers that a cached read obeys; `Reads` looks at them."""


def read_responses() -> dict[int | str, dict[str, Any]]:
    """Declare what a cached read can answer besides its success."""
    validators = {
        "ETag": "Weak; changes when what is answered does, whenever it was retrieved.",
        "Age": "Seconds since QuantaPay gave this.",
        "Cache-Status": "Where the answer came from (RFC 9211).",
    }
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in validators.items()}
    return {
        **upstream_responses(),
        200: {"headers": headers},
        304: {"description": "What the caller has (`If-None-Match`) is still right.", "headers": headers},
    }


def _staleness(found: Found, failure: UpstreamError) -> str:
    """Say why a stale answer was served: after a call that failed, or because none could be made."""
    if not found.attempted or isinstance(failure, REFUSALS):
        return f"hit; ttl={int(found.fresh_for - found.age)}; detail=stale-{failure.code}"
    status = failure.upstream_status
    return "fwd=stale; " + (f"fwd-status={status}; " if status else "") + "detail=stale-if-error"
