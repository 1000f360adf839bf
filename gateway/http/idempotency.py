"""`Idempotency-Key`: the same request, sent again, gets the same answer (interface §3.5).

See draft-ietf-httpapi-idempotency-key-header. Only a success is kept: a failure leaves the key free, as trying again
is right after every one of them.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel

from gateway.errors import FieldFault, ValidationFailed
from gateway.http import headers
from gateway.http.call import Call
from gateway.store.idempotency import Answer, Idempotency

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}

_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
"""A structured-field string (RFC 9651 §3.3.3), which is how the draft writes a key."""
_ESCAPED = re.compile(r'\\(["\\])')


def documented_key(
    _key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="Makes sending again safe: for 24 hours the same key and body get the same answer.",
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
            json_schema_extra={"pattern": '^([!#-~]([ -~]{0,253}[!-~])?|"[ -~]{1,255}")$'},
        ),
    ] = None,
) -> None:
    """Declare the header; `idempotency_key` reads it."""


def idempotency_key(call: Call) -> str | None:
    """Return the caller's key, the draft's quoted form unwrapped; raise `ValidationFailed` if it cannot be one."""
    given = headers.all_of(call.scope, b"idempotency-key")
    if not given:
        return None
    quoted = _QUOTED.fullmatch(given[0])
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else given[0]
    if len(given) > 1 or not _KEY.fullmatch(key):
        fault = FieldFault("Expected one key of 1 to 255 printable ASCII characters.", parameter=HEADER)
        raise ValidationFailed(faults=[fault])
    return key


def fingerprint(request: BaseModel) -> str:
    """Return a digest of what a request means: spelling that makes no difference makes none here."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def once(
    idempotency: Idempotency, client_id: str, key: str, fingerprint: str, make: Callable[[], Awaitable[Answer]]
) -> tuple[Answer, bool]:
    """Return what `make` answers, or answered before, and whether it is a replay.

    Raises what `Idempotency.claim` and `Claim.complete` raise, and what `make` raises, after which the key is free.
    """
    held = await idempotency.claim(client_id, key, fingerprint)
    if isinstance(held, Answer):
        return held, True
    try:
        made = await make()
    except BaseException:  # a cancelled request too: whoever sends it again need not wait for the claim to end
        await held.release()
        raise
    shown = await held.complete(made)
    return shown, shown is not made
