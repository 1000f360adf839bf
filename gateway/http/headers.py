"""A request's headers, looked up without Starlette's `Headers`, which decodes every name again each time.

`AnswerHeaders` keeps them as a dict beside the request: a request is looked up some eight times.
"""

from starlette.types import Scope


def keep(scope: Scope) -> dict[bytes, bytes]:
    """Return headers by their names in lower case; of several with one name, the first."""
    return dict(reversed(scope["headers"]))


def first_of(scope: Scope, name: bytes) -> str | None:
    """Return the value of the first header `name`."""
    value: bytes | None = scope["state"]["headers"].get(name)
    return None if value is None else value.decode("latin-1")


def all_of(scope: Scope, name: bytes) -> list[str]:
    """Return the values of every header `name`, in the order they came."""
    kept: dict[bytes, bytes] = scope["state"]["headers"]
    if name not in kept:
        return []
    if len(kept) == len(scope["headers"]):  # no name came twice, as in nearly every request
        return [kept[name].decode("latin-1")]
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]
