"""Where a worker's time goes on the three hottest paths: samples it while it is driven, and prints a table of parts.

    python -m tests.bench.profiles

Needs `wrk`, `nginx` and `py-spy` (`pip install py-spy`), and on Linux the right to trace a process: root, or
`kernel.yama.ptrace_scope=0`. About a minute.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.bench.field import Field, Pace
from tests.bench.measure import WARM_UP_SECONDS
from tests.bench.servers import require_tools, running_gateway
from tests.bench.subjects import BY_NAME
from tests.bench.wrk import WrongAnswers, drive

PATHS = ("cached-read", "pass-through", "create")
SECONDS = 12
SAMPLED_SECONDS = 8
A_SECOND = 200
CONNECTIONS = 8
"""Few: a process that is stopped to be looked at is slow, and creates wait for Redis 100 ms at most."""
LEAST = 0.005
"""A part that is smaller than this everywhere is left out."""

PARTS = (
    ("uvicorn|gateway/http/(protocol|cycle)", "HTTP: uvicorn and the socket"),
    ("gateway/telemetry|structlog|prometheus_client|json/encoder", "log line and metrics"),
    ("gateway/store|gateway/access/limits|redis/", "Redis: limits, budget, claims, sessions"),
    ("gateway/quantapay|httpx|aiohttp|yarl|multidict|urllib", "the call to QuantaPay"),
    ("gateway/payments", "sessions and orders"),
    ("gateway/access|gateway/http/(authentication|admission)", "key, origin, scope"),
    (
        "gateway/routes|gateway/http/(reads|parameters|body|schemas|idempotency)|pydantic|gateway/representations",
        "the route",
    ),
    ("gateway/http|starlette|fastapi", "layers around the routes"),
    ("asyncio|uvloop|contextlib", "event loop"),
)
"""What a frame may be of, and the part that it belongs to; the first that fits."""


def sample(pid: int, seconds: float) -> Counter[tuple[str, ...]]:
    """Return how often a process was seen at work at each stack, outermost frame first, in so many seconds."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as raw:
        options = [
            "--gil",
            "--pid",
            str(pid),
            "--duration",
            f"{seconds:.0f}",
            "--rate",
            str(A_SECOND),
            "--format",
            "raw",
            "--nonblocking",
        ]
        done = subprocess.run(["py-spy", "record", *options, "--output", raw.name], check=False, capture_output=True)
        if done.returncode:
            sys.exit(f"profiles: py-spy failed: {done.stderr.decode().strip()}")
        return Counter(dict(_stacks(Path(raw.name).read_text(encoding="utf-8"))))


def _stacks(raw: str) -> Iterator[tuple[tuple[str, ...], int]]:
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if "concurrent/futures" not in stack:  # threads that wait for work
            yield tuple(stack.split(";")), int(count)


def part_of(stack: tuple[str, ...]) -> str:
    """Say what a stack is busy with: the part of its innermost frame that belongs to one."""
    for frame in reversed(stack):
        for pattern, part in PARTS:
            if re.search(pattern, frame):
                return part
    return "else"


def shares(samples: Counter[tuple[str, ...]]) -> dict[str, float]:
    """Return each part's share of all samples, from 0 to 1."""
    total = sum(samples.values())
    parts: Counter[str] = Counter()
    for stack, count in samples.items():
        parts[part_of(stack)] += count
    return {part: count / total for part, count in parts.items()}


def table(found: dict[str, dict[str, float]]) -> str:
    """Write shares of each path side by side."""
    lines = [f"| part | {' | '.join(found)} |", "| --- |" + " --- |" * len(found)]
    for part in [*dict.fromkeys(part for _, part in PARTS), "else"]:
        row = [one.get(part, 0.0) for one in found.values()]
        if max(row) >= LEAST:
            lines.append(f"| {part} | {' | '.join(f'{share:.0%}' for share in row)} |")
    return "\n".join(lines)


def main() -> None:
    """Sample and print."""
    require_tools(["wrk", "nginx", "py-spy"])
    found = {}
    with ExitStack() as stack:
        field = Field(stack, Pace(rounds=1, seconds=SECONDS, connections=CONNECTIONS))
        gateway = stack.enter_context(running_gateway(field.upstream))
        with ThreadPoolExecutor(1) as driver:
            for name in PATHS:
                driven = driver.submit(
                    drive, gateway.url, BY_NAME[name].requests, seconds=SECONDS, connections=CONNECTIONS
                )
                time.sleep(WARM_UP_SECONDS)
                found[name] = shares(sample(gateway.pid, SAMPLED_SECONDS))
                with suppress(WrongAnswers):  # a few, of a worker that was stopped while it waited for Redis
                    driven.result()
    print(table(found))  # noqa: T201 - its figures are its report


if __name__ == "__main__":
    main()
