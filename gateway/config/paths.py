"""Places in gateway.yaml, as people read them: `clients[1].origins[0]`."""

import re

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

_PLAIN_KEY = re.compile(r"[a-z][a-z_-]{0,31}|key_sha256")


def name_of(key: str) -> str | None:
    """Return a key if it may be printed: a plain word, as keys are. Anything else could be a misplaced secret."""
    return key if _PLAIN_KEY.fullmatch(key) else None


def text_of(path: Path) -> str:
    """Write a place; a key that may not be printed is a `*`, and the line number tells which."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{name_of(part) or '*'}"
    return text.removeprefix(".")
