"""The pictures of docs/performance.md: plain SVG, which says the same for the same figures."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from tests.bench.findings import Cost, Growth

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COSTS = "performance-costs"
WIDTH, TITLE = 800, 32
"""Pixels."""
LABELS, BAR = 230, 28
"""Pixels: of the names beside bars, and from one bar to the next."""
LEFT, BOTTOM, PLOT = 60, 44, 200
"""Pixels: around a line and the height of its plot."""
COLOUR, GREY = "#3274d9", "#8e8e9a"


def draw(costs: Sequence[Cost], growths: Iterable[Growth]) -> None:
    """Write an SVG of what requests cost, and one of each growth."""
    _write(COSTS, bars("CPU a request, µs", [(cost.title, cost.figures.cpu * 1e6) for cost in costs]))
    for growth in growths:
        points = [(f"{step.size:,}", step.figures.cpu * 1e6) for step in growth.steps]
        _write(file_of(growth), line(f"{growth.title}: CPU a request, µs", points, growth.what_grows))


def file_of(growth: Growth) -> str:
    """Return the name of a growth's picture, without its ending."""
    return f"performance-{growth.name}"


def bars(title: str, values: Sequence[tuple[str, float]]) -> str:
    """Draw a bar for each name."""
    most = max(value for _, value in values)
    parts = [_text(WIDTH / 2, 20, title, anchor="middle", size=14)]
    for number, (name, value) in enumerate(values):
        top = TITLE + number * BAR
        long = value / most * (WIDTH - LABELS - 70)
        parts.append(_text(LABELS - 8, top + 18, name, anchor="end"))
        parts.append(f'<rect x="{LABELS}" y="{top + 4}" width="{long:.1f}" height="{BAR - 8}" fill="{COLOUR}"/>')
        parts.append(_text(LABELS + long + 6, top + 18, f"{value:.0f}"))
    return _svg(TITLE + len(values) * BAR + 8, parts)


def line(title: str, values: Sequence[tuple[str, float]], what: str) -> str:
    """Draw a line from value to value, from zero up; the values are as far apart whatever they are called."""
    ceiling = max(value for _, value in values) * 1.2
    apart = (WIDTH - 2 * LEFT) / max(1, len(values) - 1)
    floor = TITLE + PLOT
    points = [
        (LEFT + number * apart, floor - value / ceiling * PLOT, name, value)
        for number, (name, value) in enumerate(values)
    ]
    parts = [
        _text(WIDTH / 2, 20, title, anchor="middle", size=14),
        f'<path d="M{LEFT} {TITLE}V{floor}H{WIDTH - LEFT}" fill="none" stroke="{GREY}"/>',
        _text(LEFT - 8, floor + 4, "0", anchor="end"),
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)}" fill="none" stroke="{COLOUR}"/>',
        _text(WIDTH / 2, floor + 38, what, anchor="middle"),
    ]
    for x, y, name, value in points:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOUR}"/>')
        parts.append(_text(x, y - 10, f"{value:.0f}", anchor="middle"))
        parts.append(_text(x, floor + 18, name, anchor="middle"))
    return _svg(floor + BOTTOM, parts)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Iterable[str]) -> str:
    # A background of its own, because the page may be dark.
    size = f'width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif">'
    return "\n".join([head, f'<rect {size} fill="white"/>', *parts, "</svg>\n"])


def _write(name: str, svg: str) -> None:
    (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")
