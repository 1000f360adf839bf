"""How long callers wait: what the gateway adds when it is alone with one, and how it does at half of its load."""

from functools import partial
from statistics import median

from tests.bench.field import Field
from tests.bench.findings import Findings, Target
from tests.bench.measure import alternate, measure
from tests.bench.subjects import FORM, PASS_THROUGH, READ

MOST_ADDED = 1.0
"""Milliseconds."""
WIDEST_TAIL = 5.0
"""The 99th percentile in terms of the median."""


def add(field: Field, findings: Findings) -> None:
    """Compare calls through the gateway with calls of QuantaPay itself, one at a time over one connection."""
    drives = {
        "direct": partial(measure, field.upstream, FORM, connections=1),
        "through": partial(measure, field.gateway, PASS_THROUGH, connections=1),
    }
    found = alternate(drives, rounds=field.pace.rounds, seconds=field.pace.seconds)
    added = [through.p50 - direct.p50 for through, direct in zip(found["through"], found["direct"], strict=True)]
    findings.targets.append(
        Target("latency that a pass-through adds at one connection, p50", MOST_ADDED, median(added) * 1e3, " ms")
    )


def load_by_half(field: Field, findings: Findings) -> None:
    """Drive with as many connections as ever that rest in between, so that half of what is possible is asked for."""
    connections = field.pace.connections
    for title, requests in (("cached read", READ), ("pass-through", PASS_THROUGH)):
        tails, shares = [], []
        for _ in range(field.pace.rounds):
            full = measure(field.gateway, requests, seconds=field.pace.seconds, connections=connections)
            pause = 2 * connections / full.rate
            half = measure(field.gateway, requests, seconds=field.pace.seconds, connections=connections, pause=pause)
            tails.append(half.p99 / half.p50)
            shares.append(half.rate / full.rate)
        findings.targets.append(Target(f"{title} at half load, p99 in terms of p50", WIDEST_TAIL, median(tails)))
        findings.others.append((f"{title}: the load that counts as half", f"{median(shares):.0%} of the full"))
