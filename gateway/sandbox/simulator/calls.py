"""What was called, and how often lately."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.clock import Clock, utc
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.php import Json

MASK = "***"
KEPT_CALLS = 10_000
THROTTLE_WINDOW = 60.0
"""Seconds, contract §4."""

_SECRET_NAMES = ("api-key", "api_key", "signature")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to `api.php`: its form fields in the order they were sent, secrets masked."""

    method: str
    function: str | None
    fields: tuple[tuple[str, str], ...]
    received_at: float
    """Unix seconds."""

    def as_json(self) -> dict[str, Json]:
        """Return the call as the control API shows it; `received_at` in RFC 3339, whole seconds."""
        return {
            "method": self.method,
            "function": self.function,
            "fields": self.fields,
            "received_at": utc(self.received_at).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class CallLog:
    """The latest calls."""

    def __init__(self, options: SimulatorOptions, clock: Clock) -> None:
        self._secrets = (options.api_key, options.webhook_secret)
        self._clock = clock
        self._calls: deque[Call] = deque(maxlen=KEPT_CALLS)

    def record(self, *, method: str, function: str | None, fields: Sequence[tuple[str, str]]) -> None:
        """Keep a call; values of `api-key` and `signature`, and the account's secrets anywhere, become `***`."""
        masked = tuple((self._without_secrets(name), self._masked(name, value)) for name, value in fields)
        shown = None if function is None else self._without_secrets(function)
        self._calls.append(Call(method, shown, masked, self._clock.time()))

    def calls(self) -> list[Call]:
        """Return the calls, oldest first."""
        return list(self._calls)

    def clear(self) -> None:
        """Forget every call."""
        self._calls.clear()

    def _masked(self, name: str, value: str) -> str:
        is_secret = any(secret in name.lower() for secret in _SECRET_NAMES)
        return MASK if is_secret else self._without_secrets(value)

    def _without_secrets(self, text: str) -> str:
        r"""Mask the account's secrets, and write bytes that are not UTF-8 as `\xNN`, which JSON can hold."""
        for secret in self._secrets:
            text = text.replace(secret.get_secret_value(), MASK)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Throttle:
    """Admits at most a number of calls in any 60 seconds; refused calls do not count."""

    def __init__(self, options: SimulatorOptions, clock: Clock) -> None:
        self._limit = options.throttle_per_minute
        self._clock = clock
        self._admitted: deque[float] = deque()

    def admits(self) -> bool:
        """Count a call in, or refuse it."""
        if self._limit is None:
            return True
        now = self._clock.monotonic()
        while self._admitted and self._admitted[0] <= now - THROTTLE_WINDOW:
            self._admitted.popleft()
        if len(self._admitted) >= self._limit:
            return False
        self._admitted.append(now)
        return True

    def clear(self) -> None:
        """Forget every call, so that a full minute's worth is free."""
        self._admitted.clear()
