"""What a run found out, before anybody writes it down."""

from dataclasses import dataclass, field

from tests.bench.measure import Figures, Spread


@dataclass(frozen=True, slots=True)
class Cost:
    """What one kind of request costs."""

    title: str
    figures: Figures
    peer: str | None
    """The title of what it is compared with."""
    ratio: Spread | None


@dataclass(frozen=True, slots=True)
class Target:
    """A bound, and what was measured."""

    what: str
    bound: float
    found: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it is kept; the bound itself is."""
        return self.found <= self.bound


@dataclass(frozen=True, slots=True)
class Step:
    """What a request costs when there are so many of something."""

    size: int
    figures: Figures
    ratio: Spread
    """To the smallest size, round by round."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How the cost of a request goes as something grows."""

    name: str
    """For file names."""
    title: str
    what_grows: str
    steps: list[Step]

    @property
    def worst(self) -> float:
        """Return the highest ratio of a size to the smallest."""
        return max((step.ratio.median for step in self.steps[1:]), default=1.0)


@dataclass(slots=True)
class Findings:
    """Everything, in the order in which it is told."""

    costs: list[Cost] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    """What was measured, and the figure with its unit."""
