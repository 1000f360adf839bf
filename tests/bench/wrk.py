"""One drive: the same kind of request over and over from `wrk`, and what came of it."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).parent / "lua" / "drive.lua"
CONNECTIONS = 32
APART = 1_618_033
"""More requests than any drive sends: the numbers of two drives never meet. Without 2 and 5 in it, and near the golden
ratio, so that drives over the same few requests begin at different ones, far from each other."""

PATIENCE = 3
"""Times that a drive is tried."""

_drives = itertools.count(1)
disturbances: list[str] = []
"""Why drives of this run were done again."""


class WrongAnswers(AssertionError):
    """A drive got other answers than it is about, so its figures would be about something else."""


@dataclass(frozen=True, slots=True)
class Requests:
    """A kind of request. `<number>`, `<address>` and `<line>` in its texts differ from one to the next: `drive.lua`."""

    method: str
    path: str
    status: int
    """What every answer must have."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    among: int = 0
    """How many different ones there are; 0: each is new, in later drives too."""
    lines: Path | None = None
    """A file with what `<line>` stands for."""

    def arguments(self) -> list[str]:
        """Return the arguments of the Lua script."""
        start = next(_drives) * APART
        texts = [f"method={self.method}", f"path={self.path}", f"start={start}", f"among={self.among}"]
        texts += [f"header={name}: {value}" for name, value in self.headers.items()]
        texts += [] if self.body is None else [f"body={self.body}"]
        texts += [] if self.lines is None else [f"lines={self.lines}"]
        return texts


@dataclass(frozen=True, slots=True)
class Drive:
    """What came of it; times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Return the requests a second."""
        return self.requests / self.seconds


T = TypeVar("T")


def undisturbed(act: Callable[[], T]) -> T:
    """Do something that drives; again if it met wrong answers, since a machine with others on it has its moments.

    Raises `WrongAnswers` if it does every time. `disturbances` has what was met.
    """
    for _ in range(PATIENCE - 1):
        try:
            return act()
        except WrongAnswers as error:
            disturbances.append(str(error))
            print(f"again, because of {error}", file=sys.stderr, flush=True)  # noqa: T201 - nobody may overlook it
    return act()


def drive(url: str, requests: Requests, *, seconds: float, connections: int = CONNECTIONS, pause: float = 0.0) -> Drive:
    """Send for so many seconds over so many connections, each resting `pause` seconds on average between two.

    Raises `WrongAnswers` if an answer has another status, or a connection broke.
    """
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    command = ["wrk", *options, "--timeout", "20s", "--script", str(SCRIPT), url, "--"]
    command += [*requests.arguments(), f"pause={pause * 1000:.3f}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise WrongAnswers(f"wrk failed: {done.stderr or done.stdout}")
    figures = json.loads(done.stdout.strip().rpartition("\n")[2])
    statuses, broken = figures.pop("statuses"), figures.pop("broken")
    if broken or set(statuses) != {str(requests.status)}:
        what = f"{requests.method} {requests.path}"
        raise WrongAnswers(f"{what}: {statuses}, {broken} broken connections; expected {requests.status} only")
    return Drive(**figures)
