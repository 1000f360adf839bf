"""What a chaos proxy can do to a connection, and which of it is on."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum

_LONG_ANSWER = 300
"""Bytes."""


class Kind(StrEnum):
    """Every way to misbehave."""

    LATENCY = "latency"
    RESET = "reset"
    HALF_OPEN = "half-open"
    CUT = "cut"
    DRIBBLE = "dribble"
    REFUSE = "refuse"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour and its measures; `ChaosProxy` has a method for each kind that tells which it takes."""

    kind: Kind
    seconds: float = 0.0
    after_bytes: int | None = None
    """Bytes of an answer that still come through; None: not even the request does."""
    bytes_per_second: float = 0.0
    probability: float = 1.0


def random_fault(dice: random.Random, *, deadline: float) -> Fault:
    """Make up a fault that is felt by someone who waits `deadline` seconds."""
    fault = dice.choice(
        [
            Fault(Kind.LATENCY, seconds=dice.uniform(0, 2 * deadline)),
            Fault(Kind.RESET),
            Fault(Kind.RESET, after_bytes=dice.randrange(_LONG_ANSWER)),
            Fault(Kind.CUT, after_bytes=dice.randrange(_LONG_ANSWER)),
            Fault(Kind.DRIBBLE, bytes_per_second=_LONG_ANSWER / dice.uniform(deadline / 10, deadline * 2)),
            Fault(Kind.HALF_OPEN),
            Fault(Kind.REFUSE),
            Fault(Kind.FREEZE),
        ]
    )
    return replace(fault, probability=dice.choice([0.2, 0.6, 1.0]))


@dataclass(slots=True)
class Counters:
    """What went through, and what was struck."""

    connections: int = 0
    open: int = 0
    """Client connections that are open now."""
    exchanges: int = 0
    bytes_sent: int = 0
    bytes_answered: int = 0
    struck: Counter[Kind] = field(default_factory=Counter)
    """Connections and exchanges that a fault of this kind struck."""


class Mischief:
    """The fault that is on, and the dice that say whom it strikes. For one event loop."""

    def __init__(self, counters: Counters, *, seed: int) -> None:
        self.fault: Fault | None = None
        self.turned = 0
        """How often a fault was turned on or off: tells a session that its dice are from before."""
        self.thawed = asyncio.Event()
        self.thawed.set()
        self._counters = counters
        self._dice = random.Random(seed)

    def turn(self, fault: Fault | None) -> None:
        """Turn on a fault in place of the one before, or turn it off."""
        self.fault = fault
        self.turned += 1
        if fault is not None and fault.kind is Kind.FREEZE:
            self.thawed.clear()
        else:
            self.thawed.set()

    def throw(self) -> Fault | None:
        """Return the fault if the dice say that it strikes."""
        fault = self.fault
        if fault is None or self._dice.random() >= fault.probability:
            return None
        self._counters.struck[fault.kind] += 1
        return fault
