"""`${NAME}` and `${file:name}` in the place of a whole secret, after parsing, and nowhere else (interface §2.2).

Because only parsed values are replaced, nothing in a variable can change the structure of the file.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

from pydantic import SecretStr

from gateway.config.document import Document, Plain
from gateway.config.paths import Path, text_of
from gateway.settings import ConfigFault
from gateway.settings.load import PREFIXES, read_secret_file

SECRET_KEYS = (("clients", "quote_secret"), ("subscribers", "secret"))
"""The lists and the keys in their items that hold secrets."""

_REFERENCE = re.compile(r"\$\{(?P<file>file:)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)\}")
_EXAMPLE = "${STOREFRONT_QUOTE_SECRET} or ${file:storefront-quote-secret}"


def secret_places(data: Plain) -> Iterator[tuple[Path, Plain]]:
    """Yield every place of a parsed file that may hold a secret, with what is there."""
    for name, key in SECRET_KEYS:
        yield from places(data, name, key)


def places(data: Plain, name: str, key: str) -> Iterator[tuple[Path, Plain]]:
    """Yield the values, one or several, under `key` of each item of the list `name`; pass over other shapes."""
    items = data.get(name) if isinstance(data, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else []):
        value = item.get(key) if isinstance(item, dict) else None
        if isinstance(value, list):
            yield from (((name, index, key, at), one) for at, one in enumerate(value))
        elif value is not None:
            yield (name, index, key), value


def expand(document: Document, *, environ: Mapping[str, str], secrets_dir: FilePath | None) -> list[ConfigFault]:
    """Put a `SecretStr` in the place of every secret of `document`, and return what went wrong.

    A secret that cannot be looked up becomes None. A reference anywhere else is a fault: nothing would expand it.
    """
    faults: list[ConfigFault] = []
    for path, value in list(secret_places(document.data)):
        if isinstance(value, str):
            text, problem = _look_up(value, environ, secrets_dir)
            _put(document.data, path, None if text is None else SecretStr(text))
            if problem:
                faults.append(ConfigFault(text_of(path), problem, _EXAMPLE, document.line_of(path)))
    for path in _stray_references(document.data, ()):
        problem = "${…} is expanded only as the whole value of a secret or quote_secret"
        faults.append(ConfigFault(text_of(path), problem, line=document.line_of(path)))
    return faults


def _look_up(value: str, environ: Mapping[str, str], secrets_dir: FilePath | None) -> tuple[str | None, str | None]:
    """Return the secret that a value is or refers to, or else what is wrong."""
    reference = _REFERENCE.fullmatch(value)
    if reference is None:
        if "${" in value:
            return None, "a reference must be the whole value, as ${NAME} or ${file:name} without slashes"
        return value, None
    name = reference["name"]
    if name.upper().startswith(PREFIXES):
        return None, "QUANTAPAY_… and GATEWAY_… are the gateway's own and cannot be referred to"
    if not reference["file"]:
        text = environ.get(name)
        return (text, None) if text else (None, "the variable that it refers to is unset or empty")
    text = None if secrets_dir is None else read_secret_file(secrets_dir / name)
    return (text, None) if text else (None, "the file that it refers to in the secrets directory is absent or empty")


def _put(data: Plain, path: Path, value: SecretStr | None) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value


def _stray_references(value: Plain, path: Path) -> Iterator[Path]:
    if isinstance(value, str) and "${" in value:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _stray_references(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _stray_references(inner, (*path, index))
