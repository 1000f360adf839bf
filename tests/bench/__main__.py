"""What the gateway costs, beside what others cost on the same machine in the same minutes: `make bench`.

A run of everything takes about half an hour, prints its figures, and writes them into docs/performance.md. With
`--only` it prints what was asked for and writes nothing.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from tests.bench import costs, growth, latency, process, report, streams, workers
from tests.bench.field import Field, Pace
from tests.bench.findings import Findings
from tests.bench.servers import require_tools
from tests.bench.subjects import BY_NAME
from tests.bench.wrk import disturbances

Part = Callable[[Field, Findings], None]


def parts(asked: argparse.Namespace) -> Mapping[str, Part]:
    """Return what can be measured besides the costs of requests, in the order in which it is."""
    return {
        "latency": latency.add,
        "half-load": latency.load_by_half,
        "workers": workers.compare,
        "start": process.start,
        "memory": partial(process.memory, soak=asked.soak),
        "events": streams.fan_out,
        "clients": partial(growth.of_clients, most=asked.most),
        "pairs": partial(growth.of_cached_pairs, most=asked.most),
        "sessions": partial(growth.of_sessions, most=asked.most),
    }


def arguments() -> argparse.ArgumentParser:
    """Return what can be asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=15, help="of each comparison (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each drive, whole ones (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="of each drive (%(default)s)")
    names = ", ".join([*BY_NAME, *parts(argparse.Namespace(soak=0, most=0))])
    parser.add_argument("--only", metavar="NAMES", help=f"some of these, separated by commas: {names}")
    parser.add_argument("--most", type=int, default=100_000, help="clients, rates and sessions (%(default)s)")
    parser.add_argument(
        "--soak", type=int, default=0, metavar="REQUESTS", help="serve so many, and see that memory stays flat"
    )
    return parser


def how(asked: argparse.Namespace) -> str:
    """Say when, where and how long it was measured."""
    day = datetime.now(UTC).strftime("%-d %B %Y")
    machine = f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}"
    return (
        f"Measured on {day} on {machine}: {asked.rounds} rounds of {asked.seconds:g} s a drive, {asked.connections} "
        "connections. Figures are medians; ratios are formed within each round."
    )


def main() -> None:
    """Measure, print and write."""
    parser = arguments()
    asked = parser.parse_args()
    require_tools(["wrk", "nginx"])
    others = parts(asked)
    names = [*BY_NAME, *others] if asked.only is None else asked.only.split(",")
    if unknown := set(names) - {*BY_NAME, *others}:
        parser.error(f"nothing is called {', '.join(sorted(unknown))}")
    findings = Findings()
    try:
        measure_all(names, others, findings, Pace(asked.rounds, asked.seconds, asked.connections))
    finally:
        # Also if a later part failed: what was measured before stands.
        print(report.text(findings))  # noqa: T201 - its figures are its report
    if asked.only is None:
        report.write(findings, how(asked))


def measure_all(names: Collection[str], others: Mapping[str, Part], findings: Findings, pace: Pace) -> None:
    """Measure what is named."""
    with ExitStack() as stack:
        field = Field(stack, pace)
        if chosen := [name for name in names if name in BY_NAME]:
            costs.compare(field, findings, chosen)
        for name, part in others.items():
            if name in names:
                print(f"measuring: {name}", file=sys.stderr, flush=True)  # noqa: T201 - it takes minutes
                part(field, findings)
    if disturbances:
        findings.others.append(("drives done again, because an answer was wrong", str(len(disturbances))))


if __name__ == "__main__":
    main()
