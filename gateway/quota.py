"""How much in how long: `600/minute`, as configuration writes it and limits read it."""

import re
from typing import NamedTuple, Self

QUOTA_SHAPE = "a number from 1 to 999999999 and a unit, such as 600/minute (or /second, /hour)"
_WINDOWS = {"second": 1, "minute": 60, "hour": 3600}
_PATTERN = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour)", re.ASCII)


class Quota(NamedTuple):
    """At most `amount` in any `window` seconds."""

    amount: int
    window: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `N/second`, `N/minute` or `N/hour`; raise `ValueError` that says the shape, not the input."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"expected {QUOTA_SHAPE}")
        return cls(amount=int(match[1]), window=_WINDOWS[match[2]])

    def __str__(self) -> str:
        unit = {seconds: name for name, seconds in _WINDOWS.items()}[self.window]
        return f"{self.amount}/{unit}"
