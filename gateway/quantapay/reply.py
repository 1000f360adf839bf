"""An answer of QuantaPay's as it came, before anyone has looked at what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came: HTTP status, headers, at most 4 MiB of body. Its repr shows the status alone."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By their names in lower case."""
    body: bytes = field(repr=False)
