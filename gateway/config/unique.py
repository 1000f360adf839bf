"""What must not be in a configuration twice: ids, keys, and secrets of any kind (interface §2.2).

Checked on the parsed values, so that it is checked also where other things are wrong.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping

from pydantic import SecretStr

from gateway.config.document import Document
from gateway.config.expand import places, secret_places
from gateway.config.paths import Path, text_of
from gateway.settings import ConfigFault

_UNIQUE = (
    ("clients", "id", "the id of another client"),
    ("subscribers", "id", "the id of another subscriber"),
    ("clients", "key_sha256", "a key that is listed already"),
    ("clients", "publishable_key", "a key that is listed already"),
)


def duplicates(document: Document, *, settings_secrets: Mapping[str, SecretStr]) -> Iterator[ConfigFault]:
    """Yield a fault for each value that equals an earlier one; `settings_secrets` by variable name."""
    for name, key, what in _UNIQUE:
        first: dict[Hashable, str] = {}
        yield from _repeated(document, places(document.data, name, key), first, what)
    known: dict[Hashable, str] = {secret: name for name, secret in settings_secrets.items()}
    secrets = ((path, value) for path, value in secret_places(document.data) if isinstance(value, SecretStr))
    yield from _repeated(document, secrets, known, "a secret that is used already; every secret must differ")


def _repeated(
    document: Document, found: Iterable[tuple[Path, Hashable]], first: dict[Hashable, str], what: str
) -> Iterator[ConfigFault]:
    for path, value in found:
        if not isinstance(value, (str, SecretStr)):
            continue
        if value in first:
            yield ConfigFault(text_of(path), f"is {what} (as {first[value]})", line=document.line_of(path))
        else:
            first[value] = text_of(path)
