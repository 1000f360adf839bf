"""How long callers wait: what the gateway adds when it is alone with one, and how it does at half of its load.

A virtual machine whose host gives its processors to others for milliseconds at a time has tails of its own, and takes
twice as long to wake a process. So there are twice as many rounds as elsewhere, and the third counts in which least was stolen.
"""

from collections import defaultdict
from functools import partial
from statistics import median

from tests.bench.field import Field
from tests.bench.findings import Findings, Target
from tests.bench.measure import Figures, Spread, alternate, measure, quiet_rounds
from tests.bench.servers import Server
from tests.bench.subjects import BY_NAME, CALL, FORM, PASS_THROUGH, READ
from tests.bench.wrk import Requests

MOST_ADDED = 1.0
"""Milliseconds."""
TIMES_THE_ROUNDS = 2
WIDEST_TAIL = 5.0
"""The 99th percentile in terms of the median."""


def add(field: Field, findings: Findings) -> None:
    """Compare calls through the gateway with calls of QuantaPay itself, one at a time over one connection.

    nginx in the same place tells how much of it is due to one more process on this machine, FastAPI and httpx what is
    usual in Python, and how long FastAPI's hello takes, how fast the machine is.
    """
    drives = {
        "direct": partial(measure, field.upstream, FORM, connections=1),
        "nginx": partial(measure, field.server("nginx"), FORM, connections=1),
        "FastAPI + httpx": partial(measure, field.server("passthrough"), CALL, connections=1),
        "gateway": partial(measure, field.gateway, PASS_THROUGH, connections=1),
        "hello": partial(measure, field.server("hello"), BY_NAME["hello"].requests, connections=1),
    }
    found = alternate(drives, rounds=TIMES_THE_ROUNDS * field.pace.rounds, seconds=field.pace.seconds)

    def added(name: str) -> tuple[Spread, str]:
        direct, through = found["direct"], found[name]
        quiet = quiet_rounds(direct, through)
        milliseconds = Spread.of([(through[number].p50 - direct[number].p50) * 1e3 for number in quiet])
        return (
            milliseconds,
            f"in {len(quiet)} of {len(direct)} rounds {milliseconds.lowest:.2f}–{milliseconds.highest:.2f}",
        )

    gateway, how_sure = added("gateway")
    what = "latency that {} adds at one connection, p50"
    findings.targets.append(Target(what.format("a pass-through"), MOST_ADDED, gateway.median, " ms"))
    findings.others.append((f"{what.format('a pass-through')}, ms", how_sure))
    for peer in ("nginx", "FastAPI + httpx"):
        findings.others.append((what.format(peer), f"{added(peer)[0].median:.2f} ms"))
    hello = median(found["hello"][number].p50 for number in quiet_rounds(found["hello"]))
    findings.others.append(("FastAPI, hello at one connection, p50", f"{hello * 1e3:.2f} ms"))


def load_by_half(field: Field, findings: Findings) -> None:
    """Drive with as many connections as ever that rest in between, so that half of what is possible is asked for.

    The peers are driven the same way: what the machine adds to every tail is seen in theirs.
    """
    drives = {
        "cached read": (field.gateway, READ),
        "pass-through": (field.gateway, PASS_THROUGH),
        "FastAPI, hello": (field.server("hello"), BY_NAME["hello"].requests),
        "nginx, proxy": (field.server("nginx"), FORM),
    }
    full: defaultdict[str, list[Figures]] = defaultdict(list)
    half: defaultdict[str, list[Figures]] = defaultdict(list)
    for _ in range(TIMES_THE_ROUNDS * field.pace.rounds):
        for title, (server, requests) in drives.items():
            full[title].append(
                measure(server, requests, seconds=field.pace.seconds, connections=field.pace.connections)
            )
            half[title].append(_at_half(field, server, requests, full[title][-1].rate))
    for title, (server, _) in drives.items():
        quiet = quiet_rounds(half[title])
        tail = Spread.of([half[title][number].p99 / half[title][number].p50 for number in quiet])
        share = median(half[title][number].rate / full[title][number].rate for number in quiet)
        of_the_load = f"at {share:.0%} of the full load, in {len(quiet)} of {len(half[title])} rounds"
        how_sure = f"{of_the_load} {tail.lowest:.2f}–{tail.highest:.2f}"
        what = f"{title} at half load, p99 in terms of p50"
        if server is field.gateway:
            findings.targets.append(Target(what, WIDEST_TAIL, tail.median))
            findings.others.append((what, how_sure))
        else:
            findings.others.append((what, f"{tail.median:.2f}, {how_sure}"))


def _at_half(field: Field, server: Server, requests: Requests, rate: float) -> Figures:
    connections = field.pace.connections
    pause = 2 * connections / rate
    return measure(server, requests, seconds=field.pace.seconds, connections=connections, pause=pause)
