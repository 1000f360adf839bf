"""What one process knows of itself, and how several processes become one picture (`/status`)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gateway import __version__


@dataclass(frozen=True, slots=True)
class Status:
    """One process: whether it serves, and how what it depends on behaves. Holds no secret and no address."""

    phase: str
    store_up: bool
    processes_seen: int
    """Gateway processes last seen in the store, over all replicas."""
    clients: int
    config_in_force_is_newest: bool
    clock_skew_seconds: float | None
    """QuantaPay's clock less ours at its last answer."""
    last_upstream_outcomes: dict[str, str]
    """Function → `ok` or the problem code of its last call."""
    budget_limit: int
    """Calls to QuantaPay in a window, over all replicas; halved while QuantaPay throttles."""
    budget_remaining: int
    budget_shared: bool
    """Whether the budget is counted over all replicas, or from a local share while the store is away."""
    breakers: dict[str, str]
    """Function → `closed`, `open` or `half-open`."""
    backlog: dict[str, dict[str, float]]
    """Subscriber → `waiting` and `dead_letters` (events), `age_seconds` (of the oldest that waits), as last seen."""


def document(workers: Sequence[Status], *, expected: int, embedded_store: bool) -> dict[str, Any]:
    """Merge the workers of a replica: of each thing, the worst.

    `embedded_store`: the store is a Valkey of this replica's own, so there can be no second replica.
    """
    skews = [worker.clock_skew_seconds for worker in workers if worker.clock_skew_seconds is not None]
    outcomes: dict[str, str] = {}
    for worker in workers:
        for function, outcome in worker.last_upstream_outcomes.items():
            if outcomes.get(function, "ok") == "ok":
                outcomes[function] = outcome
    return {
        "version": __version__,
        "ready": bool(workers) and all(worker.phase == "ready" for worker in workers),
        "workers": {
            "expected": expected,
            "answering": len(workers),
            "phases": [worker.phase for worker in workers],
        },
        "store": {
            "up": bool(workers) and all(worker.store_up for worker in workers),
            "embedded": embedded_store,
            "processes_seen": max((worker.processes_seen for worker in workers), default=0),
        },
        "upstream": {"last_outcomes": dict(sorted(outcomes.items()))},
        "breakers": _worst_breakers(workers),
        "budget": {
            "limit": min((worker.budget_limit for worker in workers), default=0),
            "remaining": min((worker.budget_remaining for worker in workers), default=0),
            "shared": bool(workers) and all(worker.budget_shared for worker in workers),
        },
        "backlog": _worst_backlogs(workers),
        "clock_skew_seconds": max(skews, key=abs, default=None),
        "configuration": {
            "clients": max((worker.clients for worker in workers), default=0),
            "newest_in_force": bool(workers) and all(worker.config_in_force_is_newest for worker in workers),
        },
    }


def _worst_breakers(workers: Sequence[Status]) -> dict[str, str]:
    badness = ("closed", "half-open", "open")
    worst: dict[str, str] = {}
    for worker in workers:
        for function, state in worker.breakers.items():
            worst[function] = max(worst.get(function, "closed"), state, key=badness.index)
    return dict(sorted(worst.items()))


def _worst_backlogs(workers: Sequence[Status]) -> dict[str, dict[str, float]]:
    """All workers look at the same queues, each at its own time."""
    worst: dict[str, dict[str, float]] = {}
    for worker in workers:
        for subscriber, figures in worker.backlog.items():
            seen = worst.setdefault(subscriber, dict(figures))
            seen.update({name: max(seen.get(name, 0), figure) for name, figure in figures.items()})
    return dict(sorted(worst.items()))


def to_json(status: Status) -> dict[str, Any]:
    """Return what one worker tells its supervisor."""
    return asdict(status)


def from_json(document: dict[str, Any]) -> Status:
    """Read what `to_json` wrote."""
    return Status(**document)
