"""What one simulated merchant account looks like."""

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

ThrottleAnswer = Literal["throttled-429", "throttled-503", "throttled-200"]
"""The scenario that a throttled call is answered with; the real answer is not public (contract §4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The account's secrets and how the simulated world behaves; `ValueError` for a secret that cannot work."""

    api_key: SecretStr
    """The only `api-key` that is accepted."""
    webhook_secret: SecretStr
    """Signs checkout sessions (contract §5)."""
    public_url: str | None = None
    """Where customers reach this simulator, such as `http://127.0.0.1:8090`; None: wherever the call came to."""
    completes_after: float = 3.0
    """Seconds from a payment to its final status."""
    pays_itself_after: float | None = None
    """Seconds from a session's creation until it pays itself in full; None: someone must use the pay page."""
    throttle_per_minute: int | None = 100
    """Calls in any 60 seconds before throttling starts (contract §4); None: never."""
    throttle_answer: ThrottleAnswer = "throttled-429"

    def __post_init__(self) -> None:
        if self.api_key.get_secret_value() in ("", "0"):
            raise ValueError('PHP takes an empty key and "0" for no key at all')
        if not self.webhook_secret.get_secret_value():
            raise ValueError("the webhook secret is empty")
