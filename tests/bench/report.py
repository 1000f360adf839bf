"""From findings to the tables of docs/performance.md."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.bench import plots
from tests.bench.findings import Cost, Findings, Growth, Target

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- begin: figures -->", "<!-- end: figures -->"


def text(findings: Findings) -> str:
    """Return all findings as Markdown, without pictures."""
    return "\n\n".join(part for part in _tables(findings) if part)


def write(findings: Findings, how: str) -> None:
    """Replace what stands between the markers of the page, and the pictures. `how` says how it was measured."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has lost its markers")
    plots.draw(findings.costs, findings.growths)
    figures = "\n\n".join([how, *_tables(findings), *_pictures(findings)])
    PAGE.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


def _tables(findings: Findings) -> Iterator[str]:
    if findings.costs:
        head = ("request", "CPU a request", "requests a second", "p50", "p99", "in terms of", "ratio", "of the rounds")
        yield _table(head, map(_cost_line, findings.costs))
    if findings.targets:
        yield _table(("target", "at most", "measured", ""), map(_target_line, findings.targets))
    for growth in findings.growths:
        head = (growth.what_grows, f"{growth.title}, CPU a request", "in terms of the first", "of the rounds")
        yield _table(head, _growth_lines(growth))
    if findings.others:
        yield _table(("besides", "measured"), findings.others)


def _pictures(findings: Findings) -> Iterator[str]:
    if findings.costs:
        yield f"![CPU a request, by kind](images/{plots.COSTS}.svg)"
    for growth in findings.growths:
        yield f"![{growth.title}: CPU a request by {growth.what_grows}](images/{plots.file_of(growth)}.svg)"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost_line(cost: Cost) -> list[str]:
    figures, spread = cost.figures, cost.ratio
    compared = ["–", "–", "–"]
    if cost.peer is not None and spread is not None:
        compared = [cost.peer, f"**{spread.median:.2f}**", f"{spread.lowest:.2f}–{spread.highest:.2f}"]
    measured = [f"{figures.cpu * 1e6:.0f} µs", f"{figures.rate:.0f}", _ms(figures.p50), _ms(figures.p99)]
    return [cost.title, *measured, *compared]


def _target_line(target: Target) -> list[str]:
    bound, found = (f"{value:.3g}{target.unit}" for value in (target.bound, target.found))
    return [target.what, bound, found, "met" if target.is_met else "**missed**"]


def _growth_lines(growth: Growth) -> Iterator[list[str]]:
    for step in growth.steps:
        spread = f"{step.ratio.lowest:.2f}–{step.ratio.highest:.2f}"
        yield [f"{step.size:,}", f"{step.figures.cpu * 1e6:.0f} µs", f"{step.ratio.median:.2f}", spread]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
