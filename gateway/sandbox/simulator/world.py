"""Everything one simulator holds, in one place."""

from gateway.clock import Clock
from gateway.sandbox.simulator.calls import CallLog, Throttle
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.state import Ledger
from gateway.sandbox.simulator.switchboard import Switchboard
from gateway.sandbox.simulator.webhooks import Webhooks


class World:
    """The account, its history, and the scenarios that are on."""

    def __init__(self, options: SimulatorOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.ledger = Ledger(options, clock)
        self.calls = CallLog(options, clock)
        self.throttle = Throttle(options, clock)
        self.switchboard = Switchboard()
        self.webhooks = Webhooks(self.ledger, options, clock)

    def reset(self) -> None:
        """Go back to the beginning."""
        for part in (self.ledger, self.calls, self.throttle, self.switchboard, self.webhooks):
            part.clear()
