"""The most instructions that each kind of request may take, in terms of FastAPI's hello in the same run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

UNIT = "hello"
MANY = "cached-read-of-many"
"""Cached reads of many clients in turn, each of which asks Redis about its limit."""
PYTHON = (3, 11)
"""Whose instructions were counted for the bounds. Another version is quicker at some things than at others."""

BOUNDS: Mapping[str, float] = {
    "cached-read": 0.94,
    "401": 0.65,
    "429": 0.87,
    "pass-through": 2.36,
    "create": 5.95,
    MANY: 1.06,
}
"""As `make guard ARGS=--measure` prints them: what was counted and `SLACK`."""

SLACK = 1.10
"""Over what was counted: several times what two runs differ by, so that what fails is a real step back."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a kind of request takes, in terms of hello, and what it may take."""

    name: str
    ratio: float
    bound: float

    @property
    def is_kept(self) -> bool:
        """Whether the bound is kept; the bound itself is."""
        return self.ratio <= self.bound


def judge(counts: Mapping[str, int], bounds: Mapping[str, float] = BOUNDS) -> list[Verdict]:
    """Compare what was counted, a request or all of them, with the bounds."""
    return [Verdict(name, counts[name] / counts[UNIT], bound) for name, bound in bounds.items()]


def proposed(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the bounds that fit what was counted, rounded up to hundredths."""
    return {name: math.ceil(counts[name] / counts[UNIT] * SLACK * 100) / 100 for name in BOUNDS}
