"""What a decision leaves of its limits, in numbers for people."""

from gateway.access.limits import Decision


def remaining(decision: Decision) -> list[int]:
    """Return how many requests each limit would let through now."""
    return [pace.remaining(backlog) for pace, backlog in zip(decision.paces, decision.backlogs, strict=True)]


def resets_after(decision: Decision) -> list[float]:
    """Return the seconds until all of each limit is there again."""
    return [backlog / pace.second for pace, backlog in zip(decision.paces, decision.backlogs, strict=True)]
