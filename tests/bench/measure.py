"""What a drive costs the server that was driven, and several of them in turn."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol, Self

from tests.bench import processor
from tests.bench.servers import Server
from tests.bench.wrk import CONNECTIONS, Requests, drive, undisturbed

PROCESSORS = os.cpu_count() or 1
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one drive, or the median of several."""

    cpu: float
    """Seconds of processor a request."""
    rate: float
    """Requests a second."""
    p50: float
    """Seconds."""
    p99: float
    """Seconds."""
    stolen: float = 0.0
    """Share of the machine's processor time that its host gave to others meanwhile."""

    @classmethod
    def median_of(cls, rounds: list[Self]) -> Self:
        """Return the median of each figure by itself."""
        return cls(*(median(getattr(one, name) for one in rounds) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several values, the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Self:
        """Return it for these values."""
        return cls(median(values), min(values), max(values))


def ratio(ones: list[Figures], others: list[Figures]) -> Spread:
    """Return what a request of the one costs in terms of the other, compared within each round."""
    return Spread.of([one.cpu / other.cpu for one, other in zip(ones, others, strict=True)])


class Timed(Protocol):
    """`measure` of everything but how long."""

    def __call__(self, *, seconds: float) -> Figures: ...


def measure(
    server: Server,
    requests: Requests,
    *,
    seconds: float,
    connections: int = CONNECTIONS,
    pause: float = 0.0,
    finish: Callable[[], None] = lambda: None,
) -> Figures:
    """Drive a server once. Its processor time counts until `finish` returns. Raises `WrongAnswers`."""

    def once() -> Figures:
        before, stolen_before = processor.seconds(server.pid), processor.stolen()
        came = drive(server.url, requests, seconds=seconds, connections=connections, pause=pause)
        stolen = (processor.stolen() - stolen_before) / (came.seconds * PROCESSORS)
        finish()
        spent = processor.seconds(server.pid) - before
        return Figures(cpu=spent / came.requests, rate=came.rate, p50=came.p50, p99=came.p99, stolen=stolen)

    return undisturbed(once)


def alternate(drives: Mapping[str, Timed], *, rounds: int, seconds: float) -> dict[str, list[Figures]]:
    """Warm each up, then drive one after the other, round by round; return the rounds of each.

    Every other round goes backwards: what becomes slower or faster meanwhile then favours none.
    """
    for timed in drives.values():
        timed(seconds=WARM_UP_SECONDS)
    found: dict[str, list[Figures]] = {name: [] for name in drives}
    for number in range(rounds):
        for name in _turned(list(drives), backwards=number % 2 == 1):
            found[name].append(drives[name](seconds=seconds))
    return found


def quiet_rounds(*series: Sequence[Figures]) -> list[int]:
    """Return the third of the rounds in which least was stolen while these were driven, and all others with as little."""
    stolen = [max(one.stolen for one in ones) for ones in zip(*series, strict=True)]
    most = sorted(stolen)[(len(stolen) - 1) // 3]
    return [number for number, share in enumerate(stolen) if share <= most]


def _turned(names: list[str], *, backwards: bool) -> Iterator[str]:
    return reversed(names) if backwards else iter(names)
