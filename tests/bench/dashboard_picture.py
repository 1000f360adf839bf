"""Draws docs/images/dashboard.png: the dashboard's own queries, asked of a real Prometheus, without Grafana.

    python -m tests.bench.dashboard_picture [SECONDS]

A gateway of two workers has traffic for so long; in the middle QuantaPay confirms payments slowly, then throttles.
Needs Debian's `prometheus` and `chromium`. The picture is drawn here; Grafana lays the same panels out in its own
style.
"""

import html
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.plugins.processes import until
from tests.plugins.watching import DEPLOY, Prometheus, Traffic, gateway_of_workers

PICTURE = DEPLOY.parent / "docs" / "images" / "dashboard.png"
VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "10s", "{{": "", "}}": ""}
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#37872d", "#fa6400", "#8ab8ff", "#c4162a")
CELL, ROW, WIDE = 24, 30, 64
"""Pixels of a line of the grid, of a row's title, and of a column."""
STYLE = (
    "body{margin:0;background:#111217;color:#ccccdc;font:12px system-ui,sans-serif;position:relative}"
    "div{position:absolute;box-sizing:border-box}.p{background:#181b1f;border:1px solid #2c3235;padding:6px 8px;"
    "overflow:hidden}.r{font-weight:600;font-size:14px;padding-left:8px}h2{font-size:12px;margin:0 0 2px}"
    "svg{display:block}i{font-style:normal;margin-right:10px;white-space:nowrap}b{font-size:40px;color:#73bf69}"
)

Series = list[tuple[str, list[tuple[float, float]]]]


def series_of(prometheus: Prometheus, panel: dict, start: float, end: float) -> Series:
    """Ask all that a panel asks; name each series by its legend."""
    found: Series = []
    for target in panel["targets"]:
        query = target["expr"]
        for variable, text in VARIABLES.items():
            query = query.replace(variable, text)
        asked = prometheus.get("query_range", query=query, start=str(start), end=str(end), step="1")
        for row in asked["result"]:
            legend = target["legendFormat"]
            for label, value in row["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            points = [(at, float(value)) for at, value in row["values"] if math.isfinite(float(value))]
            if points:
                found.append((legend, points))
    return sorted(found, key=lambda one: -max(value for _, value in one[1]))


def shown(value: float, unit: str) -> str:
    """Write a number as an axis does."""
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.4g}" + {"s": " s", "reqps": " req/s", "ops": " ops/s"}.get(unit, "")


def graph(series: Series, unit: str, *, stacked: bool, size: tuple[int, int], span: tuple[float, float]) -> str:
    """Draw lines, or areas on top of each other."""
    width, height = size
    floor: dict[float, float] = {}
    drawn: list[tuple[str, list[tuple[float, float, float]]]] = []
    for legend, points in series:
        line = []
        for at, value in points:
            low = floor.get(at, 0.0) if stacked else 0.0
            floor[at] = low + value
            line.append((at, low, low + value))
        drawn.append((legend, line))
    values = [value for _, line in drawn for _, _, value in line] or [0.0]
    low, high = min(0.0, *values), max(values) if max(values) > 0 else 1.0
    high += (high - low) * 0.08

    def at(when: float, value: float) -> str:
        x = (when - span[0]) / (span[1] - span[0]) * (width - 70) + 65
        return f"{x:.1f},{height - 4 - (value - low) / (high - low) * (height - 10):.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        value = low + (high - low) / 1.08 * share
        y = at(span[0], value).partition(",")[2]
        parts.append(f'<path d="M65 {y}H{width - 5}" stroke="#2c3235"/>')
        parts.append(
            f'<text x="60" y="{y}" dy="4" fill="#8e8e9a" font-size="10" text-anchor="end">{shown(value, unit)}</text>'
        )
    for number, (_, line) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        top = " ".join(at(when, value) for when, _, value in line)
        if stacked:
            bottom = " ".join(at(when, base) for when, base, _ in reversed(line))
            parts.append(f'<polygon points="{top} {bottom}" fill="{colour}" fill-opacity=".3"/>')
        parts.append(f'<polyline points="{top}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'


def draw(prometheus: Prometheus, start: float, end: float) -> tuple[str, int, int]:
    """Return the page with its width and height."""
    boxes, rows = [], 0
    panels = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    for panel in panels:
        place = panel["gridPos"]
        is_row = panel["type"] == "row"
        top = (place["y"] - rows) * CELL + rows * ROW
        width, height = place["w"] * WIDE - 6, place["h"] * CELL - 6
        rows += is_row
        title = html.escape(panel["title"])
        where = f"left:{place['x'] * WIDE + 3}px;top:{top}px;width:{width}px"
        if is_row:
            boxes.append(f'<div class="r" style="{where};line-height:{ROW}px">{title}</div>')
            continue
        series = series_of(prometheus, panel, start, end)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        if panel["type"] == "stat":
            content = "".join(
                f"<p><b>{shown(points[-1][1], unit)}</b> {html.escape(name)}</p>" for name, points in series
            )
        else:
            stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
            content = graph(series, unit, stacked=stacked, size=(width - 18, height - 64), span=(start, end))
            content += " ".join(
                f'<i style="color:{COLOURS[number % len(COLOURS)]}">{html.escape(name)}</i>'
                for number, (name, _) in enumerate(series[:10])
            )
        boxes.append(f'<div class="p" style="{where};height:{height}px"><h2>{title}</h2>{content}</div>')
    last = panels[-1]["gridPos"]
    tall = (last["y"] + last["h"] - rows) * CELL + rows * ROW
    page = f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><body>{"".join(boxes)}'
    return page, 24 * WIDE, tall


def main(seconds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        gateway_of_workers(Path(name), budget="3000/minute") as (gateway, quantapay),
    ):
        folder = Path(name)
        prometheus = Prometheus(folder, gateway.ops_url.removeprefix("http://"))
        traffic = Traffic(gateway)
        try:
            until(prometheus.is_ready, "Prometheus is ready")
            start = time.time()
            time.sleep(seconds * 0.5)
            fault = {"name": "slow", "function": "get-transaction", "seconds": 0.4}
            httpx.post(f"{quantapay}/simulator/scenario", json=fault).raise_for_status()
            time.sleep(seconds * 0.1)
            fault = {"name": "throttled-503", "function": "get-transaction"}
            httpx.post(f"{quantapay}/simulator/scenario", json=fault).raise_for_status()
            time.sleep(seconds * 0.1)
            httpx.delete(f"{quantapay}/simulator/scenario").raise_for_status()
            time.sleep(seconds * 0.3)
            page, width, height = draw(prometheus, start + 8, time.time())
        finally:
            traffic.end()
            prometheus.stop()
        (folder / "page.html").write_text(page, encoding="utf-8")
        chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options = [
            f"--window-size={width},{height}",
            f"--screenshot={PICTURE}",
            f"--user-data-dir={folder / 'profile'}",
        ]
        subprocess.run([*chromium, *options, (folder / "page.html").as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["180"]))
