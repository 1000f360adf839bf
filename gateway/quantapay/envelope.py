"""From the bytes of an answer to the value it carries, or to the refusal it is (contract §2–§4, §10).

QuantaPay answers most errors with HTTP 200, says `text/html`, and PHP may print notices around the JSON: all is
decided on the body, and the body is hostile until it has been read. Pure, and linear in the body's length.

No error raised here holds anything of the body but a slug, neither in its text nor in its context.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, TypeAlias

from gateway.errors import (
    FunctionNotSupported,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamRejected,
    UpstreamThrottled,
)
from gateway.quantapay.reply import Reply

JsonValue: TypeAlias = "bool | int | Decimal | str | list[JsonValue] | dict[str, JsonValue] | None"
"""What JSON can hold; a number with a point or an exponent is a Decimal of the digits that were sent."""

_Object: TypeAlias = dict[str, JsonValue]

_DOCUMENTED: Final[dict[str, type[UpstreamRefusal]]] = {
    "function-not-found": FunctionNotSupported,
    "invalid-api-key": UpstreamCredentialsRejected,
    "api-key-not-found": UpstreamCredentialsRejected,
    "missing-argument": UpstreamRejected,
    "missing-function-name": UpstreamRejected,
}
"""Contract §3."""

_FIELDS_WITH_TEXT: Final = ("error_code", "error", "message", "response")
_SLUG: Final = re.compile(r"[a-z0-9-]{1,64}")
_WORDS: Final = re.compile(r"[a-z]{2,20}(?:-[a-z]{2,20}){1,6}")
"""A slug where only a text was promised. Words alone: a key in hex must not pass for one."""
_ARGUMENT: Final = re.compile(r"Missing argument: ([a-zA-Z0-9_\-\[\]]{1,64})(?![a-zA-Z0-9_\-\[\]])")
_THROTTLED: Final = re.compile(r"\brate ?limit|limit (?:exceeded|reached)|requests? limit|throttl|too many")
"""Not a bare "rate", which errors about exchange rates contain (contract §4)."""
_ERROR_TEXT: Final = re.compile(
    r"\berror\b|\bexception\b"
    r"|^(?:[a-z]+-)+(?:invalid|missing|expired|denied|failed|found|error)$"
    r"|^(?:no|not|invalid|missing|unknown)(?:-[a-z]+)+$",
    re.IGNORECASE,
)

_OBJECT: Final = re.compile(r'\{\s*"')
_ENVELOPE: Final = re.compile(r'\{\s*"(?:success|error_code)"')
_MOST_STRAYS: Final = 8
"""Places in the noise that begin like an object and are none. Each costs a look at the rest of the body."""
_DEEPEST: Final = 32
_MOST_DIGITS: Final = 4300
"""Python's own limit for integers, and ours for decimals."""
_LARGEST_EXPONENT: Final = 64

_DEFAULT_WAIT, _LONGEST_WAIT = 60, 3600
"""Seconds for `Retry-After`."""


class MissingUpstreamArgument(UpstreamRejected):
    """QuantaPay's `missing-argument`, with the name it gave: its own name for the parameter, or None."""

    def __init__(self, argument: str | None) -> None:
        super().__init__(upstream_code="missing-argument")
        self.argument = argument


def read_envelope(reply: Reply, *, signed: bool, now: float) -> JsonValue:
    """Return the value of `response`, which may be any JSON value, `false`, `""` and null included.

    `signed` says that the call carried a timestamp, `now` is Unix time, for a `Retry-After` that is a date.
    Raises an `UpstreamRefusal` for an error envelope, under any status but 3xx, and for a success that carries an
    error; `UpstreamInvalidResponse` for all that is not exactly one envelope, and for a success under 4xx or 5xx.

    A 429 or 503 is `UpstreamThrottled` unless the envelope has a documented error code. It may come from a proxy
    that gave up on a call PHP went on with: only under a status below 400 is `UpstreamThrottled` a definite no.
    """
    envelope = _envelope(reply)
    wait = _seconds_to_wait(reply.headers.get("retry-after"), now=now)
    fault = UpstreamInvalidResponse() if envelope is None else _fault(envelope, signed=signed, wait=wait)
    if reply.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        if fault is None or fault.upstream_code not in _DOCUMENTED:
            fault = UpstreamThrottled(retry_after=wait)
    elif not _may_carry(reply.status, fault):
        fault = UpstreamInvalidResponse()
    if fault is not None:
        raise fault
    return envelope["response"] if envelope is not None else None


def refused_text(value: JsonValue) -> UpstreamError:
    """Return the error for a bare text where the function should give something else (contract §2).

    Such a text is a business error in Boxcoin's way; any other value is an answer we do not understand.
    """
    if not isinstance(value, str):
        return UpstreamInvalidResponse()
    return _refusal({"response": value}, signed=False, wait=_DEFAULT_WAIT)


def looks_like_error_text(text: str) -> bool:
    """Tell whether a bare text reads as an error, where a text could also be the answer (contract §2).

    True for "… error [function]: …", for slugs such as `whitelist-invalid` and `no-credit-balance`, and for
    throttling and expiry; false for numbers, addresses and single words.
    """
    words = _plain_words(text)
    return bool(_ERROR_TEXT.search(text) or _THROTTLED.search(words)) or "request expired" in words


def _may_carry(status: int, fault: UpstreamError | None) -> bool:
    """Tell whether an envelope counts under this HTTP status: errors under 2xx, 4xx, 5xx, success under 2xx."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return True
    return fault is not None and status >= HTTPStatus.BAD_REQUEST


def _fault(envelope: _Object, *, signed: bool, wait: int) -> UpstreamError | None:
    """Return what an envelope says went wrong, or None when it is a success with a `response`."""
    success = _truth(envelope.get("success", False if envelope.get("error_code") else None))
    if success is False:
        return _refusal(envelope, signed=signed, wait=wait)
    if success is None or "response" not in envelope or envelope.get("error_code"):
        return UpstreamInvalidResponse()
    match envelope["response"]:
        case dict() as inner if _says_no(inner):
            return _refusal(inner, signed=signed, wait=wait)
        case ["error", *details]:
            return _refusal({"error": details[0] if details else None}, signed=signed, wait=wait)
    return None


def _says_no(response: _Object) -> bool:
    """Tell whether a successful answer's object is an error by its own account (contract §10 point 5)."""
    return _truth(response.get("success")) is False or bool(response.get("error") or response.get("error_code"))


def _truth(value: JsonValue) -> bool | None:
    """Read PHP's ways to say yes and no: a boolean, 1, 0, or one of them as text; None for all else."""
    if isinstance(value, Decimal):
        return None
    if value in (True, "true", "1"):
        return True
    return False if value in (False, "false", "0") else None


def _refusal(source: Mapping[str, JsonValue], *, signed: bool, wait: int) -> UpstreamRefusal:
    """Map an error by its code first, then by the few words that mean something (contract §3, §4)."""
    texts = [text for text in map(source.get, _FIELDS_WITH_TEXT) if isinstance(text, str)]
    code = _code(source)
    if code == "missing-argument":
        named = next((found for text in texts if (found := _ARGUMENT.search(text))), None)
        return MissingUpstreamArgument(named[1] if named else None)
    if code in _DOCUMENTED:
        return _DOCUMENTED[code](upstream_code=code)
    words = _plain_words(" ".join(texts))
    if "request expired" in words or (signed and "expired" in words):
        return UpstreamClockSkew(upstream_code=code)
    if _THROTTLED.search(words):
        return UpstreamThrottled(upstream_code=code, retry_after=wait)
    return UpstreamRejected(upstream_code=code)


def _code(source: Mapping[str, JsonValue]) -> str | None:
    """Return the error's slug: `error_code`, or in its absence a text that is nothing but a slug of words."""
    code = source.get("error_code")
    if code:
        return code if isinstance(code, str) and _SLUG.fullmatch(code) else None
    texts = (source.get("error"), source.get("response"))
    return next((text for text in texts if isinstance(text, str) and _WORDS.fullmatch(text)), None)


def _plain_words(text: str) -> str:
    """Return a text in lower case with one blank for any run of blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", text).lower()


def _envelope(reply: Reply) -> _Object | None:
    """Return the one envelope in a reply; None if there is none, or more than one, or one that is cut off."""
    if reply.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        return None  # we ask for identity, and what is packed has no length that we could bound
    text = reply.body.decode("utf-8", "surrogateescape").lstrip("\ufeff \t\r\n")
    position = strays = 0
    if text.startswith("[") and (parsed := _parse(text, 0)):
        position = parsed[1]  # a whole list is no envelope, whatever its items look like
    found: dict[str, _Object] = {}
    while start := _OBJECT.search(text, position):
        parsed = _parse(text, start.start())
        if parsed is None:
            strays += 1
            if strays > _MOST_STRAYS or _ENVELOPE.match(text, start.start()):
                return None
            position = start.end()
            continue
        value, position = parsed
        if "success" in value or "error_code" in value:
            found[text[start.start() : position]] = value
            if len(found) > 1:
                return None  # a notice can quote what an attacker sent: of two that differ neither is believed
    envelope = next(iter(found.values()), None)
    return envelope if envelope is not None and (_is_plain(text) or _is_sound(envelope)) else None


def _parse(text: str, start: int) -> tuple[_Object, int] | None:
    """Parse the JSON value at `start`; return it and where it ends, or None."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, ArithmeticError, RecursionError):
        return None  # raised by no one: a JSONDecodeError holds the whole body


def _is_plain(text: str) -> bool:
    """Tell at a glance what `_is_sound` finds out slowly: nothing escaped, and too few brackets to nest too deeply."""
    return text.isascii() and "\\u" not in text and text.count("{") + text.count("[") < _DEEPEST


def _is_sound(envelope: _Object) -> bool:
    """Tell whether our own answers could carry it: nested a few levels, and no halves of surrogate pairs.

    Bytes that were not UTF-8 are such halves too, after `surrogateescape`.
    """
    level: list[JsonValue] = [envelope]
    for _ in range(_DEEPEST):
        texts = [value for value in level if isinstance(value, str)]
        texts += [name for value in level if isinstance(value, dict) for name in value]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            return False
        level = [inner for value in level for inner in _items(value)]
        if not level:
            return True
    return False


def _items(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, JsonValue]]) -> _Object:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("A name twice, which PHP cannot print")
    return names


def _decimal(token: str) -> Decimal:
    number = Decimal(token)
    if len(token) > _MOST_DIGITS or abs(number.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError("A number too large or too small to be an amount")
    return number


def _integer(token: str) -> int:
    if len(token) > _MOST_DIGITS:
        raise ValueError("An integer too long to be an amount")
    return int(token)


def _no_constant(_token: str) -> JsonValue:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_decimal, parse_int=_integer, parse_constant=_no_constant
)


def _seconds_to_wait(retry_after: str | None, *, now: float) -> int:
    """Read `Retry-After`, seconds or an HTTP date (RFC 9110 §10.2.3), as 1 to 3600 seconds; 60 without one."""
    if retry_after is None:
        return _DEFAULT_WAIT
    text = retry_after.strip()
    if re.fullmatch("[0-9]{1,10}", text):
        seconds = int(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return _DEFAULT_WAIT
        seconds = math.ceil((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    return min(max(seconds, 1), _LONGEST_WAIT)
