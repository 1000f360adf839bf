"""pydantic's errors as faults: the place in the file, and our own words, for pydantic's may hold the input."""

import difflib
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.document import WHOLE_FILE, Document, Plain
from gateway.config.model import (
    PUBLISHABLE_KIND,
    SECRET_KIND,
    Cache,
    Config,
    Functions,
    Payments,
    PublishableKeyClient,
    SecretKeyClient,
    Subscriber,
    Webhooks,
)
from gateway.config.paths import Path, text_of
from gateway.settings import ConfigFault
from gateway.settings.faults import own_words

_SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Config,
    ("clients", SECRET_KIND): SecretKeyClient,
    ("clients", PUBLISHABLE_KIND): PublishableKeyClient,
    ("subscribers",): Subscriber,
    ("webhooks",): Webhooks,
    ("payments",): Payments,
    ("cache",): Cache,
    ("functions",): Functions,
}

_MARKS = frozenset({SECRET_KIND, PUBLISHABLE_KIND, "[key]"})
"""What pydantic puts into a location that is no key of the file."""

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
}


def explain(error: ValidationError, document: Document) -> Iterator[ConfigFault]:
    """Yield a fault for each error of a validated `document`."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its items are bad, each with a fault of its own; pydantic counts only good ones
        words, at = own_words(detail)
        path = _path(detail["loc"], document.data) + at
        section, key = _section(detail["loc"]), _key(path)
        yield ConfigFault(
            text_of(path) or WHOLE_FILE,
            words or _problem(detail, section, key),
            _example(section, key),
            document.line_of(path),
        )


def _path(loc: tuple[int | str, ...], data: Plain) -> Path:
    """Turn pydantic's location into a place in the file: without the tags and marks that it adds."""
    path: list[str | int] = []
    for part in loc:
        container = list if isinstance(part, int) else dict
        if part in _MARKS or not isinstance(data, container):
            continue
        path.append(part)
        data = data.get(part) if isinstance(data, dict) else data[int(part)]
    return tuple(path)


def _section(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model that a location's last key belongs to."""
    names = tuple(part for part in loc if isinstance(part, str))[:-1]
    while names not in _SECTIONS:
        names = names[:-1]
    return _SECTIONS[names]


def _key(path: Path) -> str:
    """Return the key that a path ends with, apart from indexes."""
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def _problem(detail: ErrorDetails, section: type[BaseModel], key: str) -> str:
    """Say what is expected; of `ctx` only bounds and choices are used, which are ours."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(section, key)
    if kind == "missing":
        return _missing_key(section, key)
    if detail["input"] is None:
        return "has no value: give it one, or remove the key"
    return f"expected {_expected(detail)}{_surprise(detail)}"


def _expected(detail: ErrorDetails) -> str:
    bounds = detail.get("ctx", {})
    match detail["type"]:
        case "literal_error" | "enum":
            return f"one of {bounds['expected']}"
        case "greater_than_equal":
            return f"at least {bounds['ge']}"
        case "less_than_equal":
            return f"at most {bounds['le']}"
        case "too_short":
            return "at least one item"
        case kind:
            return _TYPES.get(kind, "another value")


def _surprise(detail: ErrorDetails) -> str:
    """Tell what YAML made of a text that looks like something else."""
    found = detail["input"]
    if detail["type"] == "string_type" and not isinstance(found, (list, dict, SecretStr)):
        what = "true or false" if isinstance(found, bool) else "a number"
        return f"; without quotes YAML reads {what} here, write it in quotes"
    return ""


def _missing_key(section: type[BaseModel], key: str) -> str:
    if section is SecretKeyClient and key == "key_sha256":
        return "required: a client has key_sha256 (a secret key) or publishable_key (a browser's)"
    return "required, but absent"


def _unknown_key(section: type[BaseModel], key: str) -> str:
    for owner, other in ((PublishableKeyClient, SecretKeyClient), (SecretKeyClient, PublishableKeyClient)):
        if section is other and key in owner.model_fields:
            has = "key_sha256" if other is SecretKeyClient else "publishable_key"
            return f"does not belong to a client with {has}"
    close = difflib.get_close_matches(key, section.model_fields, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}known are {', '.join(section.model_fields)}"


def _example(section: type[BaseModel], key: str) -> str:
    """Return the example of a key, from its model."""
    field = section.model_fields.get(key)
    return str(field.examples[0]) if field is not None and field.examples else ""
