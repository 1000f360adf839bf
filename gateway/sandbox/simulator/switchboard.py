"""Which scenario is on, for which function, and for how many more calls."""

from dataclasses import dataclass, replace

from gateway.sandbox.simulator.php import Json


@dataclass(frozen=True, slots=True)
class Switch:
    """A scenario that is on."""

    scenario: str
    function: str | None = None
    """The only function it concerns; None: every call."""
    times: int | None = None
    """Calls left until it goes off by itself; None: until somebody turns it off."""
    seconds: float = 0.0
    """The delay of the answer, for scenarios that have one."""

    def as_json(self) -> dict[str, Json]:
        """Return the switch as the control API takes and shows it."""
        return {"name": self.scenario, "function": self.function, "times": self.times, "seconds": self.seconds}


class Switchboard:
    """At most one scenario a function, and one for all the rest."""

    def __init__(self) -> None:
        self._on: dict[str | None, Switch] = {}

    def turn_on(self, switch: Switch) -> None:
        """Turn a scenario on, in place of the one that was on for the same function."""
        self._on[switch.function] = switch

    def clear(self) -> None:
        """Turn everything off."""
        self._on.clear()

    def active(self) -> list[Switch]:
        """Return what is on."""
        return list(self._on.values())

    def take(self, function: str | None) -> Switch | None:
        """Return the scenario for a call and count the call; a function's own comes before the one for all."""
        switch = self._on.get(function) or self._on.get(None)
        if switch is None or switch.times is None:
            return switch
        if switch.times > 1:
            self._on[switch.function] = replace(switch, times=switch.times - 1)
        else:
            del self._on[switch.function]
        return switch
