"""From figures to tables in Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.bench.measure import Figures, Spread


@dataclass(frozen=True, slots=True)
class Row:
    """A subject's line."""

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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def subjects_table(rows: Iterable[Row]) -> str:
    """Return what a request of each kind costs."""
    head = ("request", "CPU a request", "requests a second", "p50", "p99", "in terms of", "ratio", "lowest–highest")
    return table(head, map(_subject_line, rows))


def targets_table(targets: Iterable[Target]) -> str:
    """Return which bounds are kept."""
    head = ("target", "at most", "measured", "")
    return table(head, map(_target_line, targets))


def _subject_line(row: Row) -> list[str]:
    figures, spread = row.figures, row.ratio
    compared = ["–", "–", "–"]
    if row.peer is not None and spread is not None:
        compared = [row.peer, f"**{spread.median:.2f}**", f"{spread.lowest:.2f}–{spread.highest:.2f}"]
    measured = [f"{figures.cpu * 1e6:.0f} µs", f"{figures.rate:.0f}", _ms(figures.p50), _ms(figures.p99)]
    return [row.title, *measured, *compared]


def _target_line(target: Target) -> list[str]:
    bound, found = (f"{value:.4g}{target.unit}" for value in (target.bound, target.found))
    return [target.what, bound, found, "met" if target.is_met else "**missed**"]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
