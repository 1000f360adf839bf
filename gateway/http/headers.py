"""A request's headers as ASGI hands them over: pairs of bytes, their names in lower case.

Starlette's `Headers` decodes every name again for each look-up; a request is looked up some eight times.
"""

from starlette.types import Scope


def all_of(scope: Scope, name: bytes) -> list[str]:
    """Return the values of every header `name`, in the order they came."""
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


def first_of(scope: Scope, name: bytes) -> str | None:
    """Return the value of the first header `name`."""
    for header, value in scope["headers"]:
        if header == name:
            text: str = value.decode("latin-1")
            return text
    return None
