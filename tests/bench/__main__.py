"""What the gateway costs, beside what others cost on the same machine in the same minutes: `make bench`.

    python -m tests.bench [--rounds 5] [--seconds 4] [--connections 32] [--only cached-read,401]

Prints a table.
"""

import argparse
from contextlib import ExitStack
from functools import partial

from tests.bench import report
from tests.bench.measure import Figures, Timed, alternate, measure, ratio
from tests.bench.servers import (
    GatewayServer,
    Server,
    require_tools,
    running_gateway,
    running_nginx,
    running_peer,
    running_upstream,
)
from tests.bench.subjects import BY_NAME, SUBJECTS, Subject


class Field:
    """The servers that are up, each started when it is first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.upstream = stack.enter_context(running_upstream())
        self._up: dict[str, Server] = {}

    def server(self, name: str) -> Server:
        """Return the gateway, or a peer."""
        if name not in self._up:
            self._up[name] = self._stack.enter_context(self._start(name))
        return self._up[name]

    def _start(self, name):
        if name == "gateway":
            return running_gateway(self.upstream)
        return running_nginx(self.upstream) if name == "nginx" else running_peer(name, self.upstream)


def run(subject: Subject, server: Server, seconds: float, *, connections: int) -> Figures:
    """Drive a subject once, with nothing left over from the drive before."""
    if not isinstance(server, GatewayServer):
        return measure(server, subject.requests, seconds=seconds, connections=connections)
    server.store.flushall()
    subject.prepare(server)
    finish = partial(subject.finish, server)
    return measure(server, subject.requests, seconds=seconds, connections=connections, finish=finish)


def chosen(names: list[str]) -> list[Subject]:
    """Return these subjects and their peers, in the order of all."""
    wanted = {*names, *(BY_NAME[name].peer for name in names)}
    return [subject for subject in SUBJECTS if subject.name in wanted]


def rows(found: dict[str, list[Figures]]) -> list[report.Row]:
    """Return the lines of the table."""
    lines = []
    for name, rounds in found.items():
        peer = BY_NAME[name].peer
        compared = None if peer is None else ratio(rounds, found[peer])
        title = None if peer is None else BY_NAME[peer].title
        lines.append(report.Row(BY_NAME[name].title, Figures.median_of(rounds), title, compared))
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each drive")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default=",".join(BY_NAME), help="subjects, separated by commas")
    asked = parser.parse_args()
    require_tools(["wrk", "nginx"])
    with ExitStack() as stack:
        field = Field(stack)
        drives: dict[str, Timed] = {
            subject.name: partial(run, subject, field.server(subject.server), connections=asked.connections)
            for subject in chosen(asked.only.split(","))
        }
        found = alternate(drives, rounds=asked.rounds, seconds=asked.seconds)
    print(report.subjects_table(rows(found)))  # noqa: T201 - its figures are its report


if __name__ == "__main__":
    main()
