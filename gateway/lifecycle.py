"""Where a process is in its life: starting, ready, draining."""

import asyncio
from enum import StrEnum


class Phase(StrEnum):
    """What `/readyz` tells the load balancer."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The phase of this process; it only moves forward."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.draining = asyncio.Event()
        """Set once draining begins: what would go on for long ends then."""

    def started(self) -> None:
        """Take traffic from now on."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Ask for no new traffic; what is in flight goes on."""
        self.phase = Phase.DRAINING
        self.draining.set()
