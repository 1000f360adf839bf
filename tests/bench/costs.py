"""What each kind of request costs, in turn with what it is compared with."""

from collections.abc import Iterable, Mapping
from functools import partial

from tests.bench.field import Field
from tests.bench.findings import Cost, Findings, Target
from tests.bench.measure import Figures, alternate, measure, ratio
from tests.bench.servers import GatewayServer, Server
from tests.bench.subjects import BY_NAME, SUBJECTS, Subject

BOUNDS: Mapping[str, float] = {"pass-through": 0.15, "cached-read": 1.25, "401": 1.3, "429": 1.3, "create": 0.5}
"""The most that a request may cost in terms of its peer's."""


def compare(field: Field, findings: Findings, names: Iterable[str]) -> None:
    """Drive these subjects and their peers."""
    subjects = _with_peers(names)
    drives = {
        subject.name: partial(run, subject, field.server(subject.server), connections=field.pace.connections)
        for subject in subjects
    }
    found = alternate(drives, rounds=field.pace.rounds, seconds=field.pace.seconds)
    findings.costs += [_cost(subject, found) for subject in subjects]
    findings.targets += [
        Target(f"{cost.title}, in terms of {cost.peer}", BOUNDS[subject.name], cost.ratio.median)
        for subject, cost in zip(subjects, findings.costs, strict=True)
        if subject.name in BOUNDS and cost.ratio is not None
    ]


def run(subject: Subject, server: Server, *, seconds: float, connections: int) -> Figures:
    """Drive a subject once, with nothing left over from the drive before."""
    if not isinstance(server, GatewayServer):
        return measure(server, subject.requests, seconds=seconds, connections=connections)
    server.store.flushall()
    subject.prepare(server)
    finish = partial(subject.finish, server)
    return measure(server, subject.requests, seconds=seconds, connections=connections, finish=finish)


def _with_peers(names: Iterable[str]) -> list[Subject]:
    """Return the subjects of these names and what they are compared with, in the order of all."""
    wanted = {needed for name in names for needed in (name, BY_NAME[name].peer)}
    return [subject for subject in SUBJECTS if subject.name in wanted]


def _cost(subject: Subject, found: Mapping[str, list[Figures]]) -> Cost:
    rounds = found[subject.name]
    if subject.peer is None:
        return Cost(subject.title, Figures.median_of(rounds), peer=None, ratio=None)
    compared = ratio(rounds, found[subject.peer])
    return Cost(subject.title, Figures.median_of(rounds), BY_NAME[subject.peer].title, compared)
