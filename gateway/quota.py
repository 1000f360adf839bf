"""How much in how long: `600/minute`, as configuration writes it and limits read it."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

_PATTERN = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `amount` in any `window` seconds."""

    amount: int
    window: int

    WINDOWS: ClassVar[dict[str, int]] = {"second": 1, "minute": 60, "hour": 3600}
    SHAPE: ClassVar[str] = "a number from 1 to 999999999 and a unit, such as 600/minute (or /second, /hour)"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `N/second`, `N/minute` or `N/hour`; raise `ValueError` that says the shape, not the input."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"expected {cls.SHAPE}")
        return cls(amount=int(match[1]), window=cls.WINDOWS[match[2]])

    def __str__(self) -> str:
        unit = {seconds: name for name, seconds in self.WINDOWS.items()}[self.window]
        return f"{self.amount}/{unit}"
