"""How long callers wait: what the gateway adds when it is alone with one, and how it does at half of its load."""

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
WIDEST_TAIL = 5.0
"""The 99th percentile in terms of the median."""


def add(field: Field, findings: Findings) -> None:
    """Compare calls through the gateway with calls of QuantaPay itself, one at a time over one connection.

    nginx in the same place tells how much of it is due to one more process on this machine, FastAPI and httpx what is
    usual in Python, and how long FastAPI's hello takes, how fast the machine is.

    Half of such a call is waiting for other processes to be woken, which takes a shared machine twice as long while its
    neighbours are busy. So there are twice as many rounds, and the quiet ones count.
    """
    drives = {
        "direct": partial(measure, field.upstream, FORM, connections=1),
        "nginx": partial(measure, field.server("nginx"), FORM, connections=1),
        "FastAPI + httpx": partial(measure, field.server("passthrough"), CALL, connections=1),
        "gateway": partial(measure, field.gateway, PASS_THROUGH, connections=1),
        "hello": partial(measure, field.server("hello"), BY_NAME["hello"].requests, connections=1),
    }
    found = alternate(drives, rounds=2 * field.pace.rounds, seconds=field.pace.seconds)
    quiet = quiet_rounds([found["direct"], found["hello"]])

    def added(name: str) -> Spread:
        return Spread.of([(found[name][number].p50 - found["direct"][number].p50) * 1e3 for number in quiet])

    gateway = added("gateway")
    what = "latency that a pass-through adds at one connection, p50"
    findings.targets.append(Target(what, MOST_ADDED, gateway.median, " ms"))
    findings.others.append((f"{what}, of the quiet rounds", f"{gateway.lowest:.2f}–{gateway.highest:.2f} ms"))
    findings.others.append(("quiet rounds of these", f"{len(quiet)} of {len(found['direct'])}"))
    for peer in ("nginx", "FastAPI + httpx"):
        findings.others.append((f"latency that {peer} adds at one connection, p50", f"{added(peer).median:.2f} ms"))
    hello = median(found["hello"][number].p50 for number in quiet)
    findings.others.append(("FastAPI, hello at one connection, p50", f"{hello * 1e3:.2f} ms"))


def load_by_half(field: Field, findings: Findings) -> None:
    """Drive with as many connections as ever that rest in between, so that half of what is possible is asked for.

    The peers are driven the same way: a machine that now and then stands still gives all of them a tail.
    """
    drives = {
        "cached read": (field.gateway, READ),
        "pass-through": (field.gateway, PASS_THROUGH),
        "FastAPI, hello": (field.server("hello"), BY_NAME["hello"].requests),
        "nginx, proxy": (field.server("nginx"), FORM),
    }
    tails: defaultdict[str, list[float]] = defaultdict(list)
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(field.pace.rounds):
        for title, (server, requests) in drives.items():
            full = measure(server, requests, seconds=field.pace.seconds, connections=field.pace.connections)
            half = _at_half(field, server, requests, full.rate)
            tails[title].append(half.p99 / half.p50)
            shares[title].append(half.rate / full.rate)
    for title, (server, _) in drives.items():
        share = f"at {median(shares[title]):.0%} of the full load"
        if server is field.gateway:
            findings.targets.append(
                Target(f"{title} at half load, p99 in terms of p50", WIDEST_TAIL, median(tails[title]))
            )
            findings.others.append((f"{title}: the load that counts as half", share))
        else:
            tail = f"{median(tails[title]):.2f}, {share}"
            findings.others.append((f"{title} at half load, p99 in terms of p50", tail))


def _at_half(field: Field, server: Server, requests: Requests, rate: float) -> Figures:
    connections = field.pace.connections
    pause = 2 * connections / rate
    return measure(server, requests, seconds=field.pace.seconds, connections=connections, pause=pause)
