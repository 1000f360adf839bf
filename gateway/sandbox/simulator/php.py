"""How PHP reads a form and writes JSON, as far as a client can tell the difference.

The rules for forms are those of PHP's `$_POST`; the rules for JSON are those of `json_encode` without flags
(contract §1).
"""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

Json: TypeAlias = "str | int | float | RawJson | Sequence[Json] | Mapping[str, Json] | None"
Field: TypeAlias = str | dict[str, str]
Form: TypeAlias = dict[str, Field]
"""A decoded form: `a=1` is a text, `a[0]=1` a map. Bytes that are not UTF-8 are kept as lone surrogates."""


class RawJson(str):
    """A text that is already JSON and is written as it is: a number with its digits, or something broken."""

    __slots__ = ()


def form_pairs(body: bytes) -> list[tuple[str, str]]:
    """Decode the name–value pairs of a form in the order they were sent, names as sent."""
    pairs = (pair.partition(b"=") for pair in body.split(b"&") if pair)
    return [(_decoded(name), _decoded(value)) for name, _, value in pairs]


def form(pairs: Sequence[tuple[str, str]]) -> Form:
    """Build what PHP's `$_POST` would hold.

    The later of two equal names wins. Names lose leading blanks, end at the first NUL, and have `.` and blanks
    turned into `_`; a name that is empty by then is dropped. `name[key]` makes a map, one level deep; `name[]`
    numbers its values.
    """
    fields: Form = {}
    for raw_name, value in pairs:
        name, key = _split_name(raw_name)
        if not name:
            continue
        if key is None:
            fields[name] = value
            continue
        held = fields.get(name)
        entries = held if isinstance(held, dict) else {}
        fields[name] = {**entries, (key or str(len(entries))): value}
    return fields


def text(fields: Form, name: str, default: str = "") -> str:
    """Return a field's text; PHP turns a map into the text `Array`."""
    value = fields.get(name, default)
    return value if isinstance(value, str) else "Array"


def json_encode(value: Json) -> bytes:
    r"""Write JSON as PHP does: no blanks, `\/`, `\uXXXX`, `[]` for an empty map, `150` for `150.0`, `1.0e-5`.

    A text that is not UTF-8 makes `json_encode` fail, and PHP then prints nothing: the result is empty
    (contract §2).
    """
    try:
        return _encoded(value).encode("ascii")
    except UnicodeEncodeError:
        return b""


def _decoded(raw: bytes) -> str:
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "surrogateescape")


def _split_name(sent: str) -> tuple[str, str | None]:
    name, bracket, rest = sent.partition("\0")[0].lstrip(" ").partition("[")
    name = name.replace(".", "_").replace(" ", "_")
    if not bracket or not name:
        return name, None
    key, closed, _ = rest.partition("]")
    return (name, key) if closed else (f"{name}_{rest}", None)


def _encoded(value: Json) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case RawJson() | int():
            return str(value)
        case str():
            value.encode("utf-8")  # fails for lone surrogates: json.dumps would write them
            return json.dumps(value).replace("/", "\\/")
        case float():
            return _encoded_float(value)
        case Mapping() if value:
            members = (f"{_encoded(str(name))}:{_encoded(member)}" for name, member in value.items())
            return "{" + ",".join(members) + "}"
        case _:
            return "[" + ",".join(_encoded(item) for item in value) + "]"


def _encoded_float(value: float) -> str:
    shortest = repr(value)
    mantissa, exponent_mark, exponent = shortest.partition("e")
    if not exponent_mark:
        return mantissa.removesuffix(".0")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
