"""What one simulated merchant account looks like."""

from dataclasses import dataclass
from typing import Literal

from pydantic import HttpUrl, SecretStr, ValidationError

ThrottleAnswer = Literal["throttled-429", "throttled-503", "throttled-200"]
"""The scenario that a throttled call is answered with; the real answer is not public (contract §4)."""
WebhookForm = Literal["april", "march"]
"""The body of a webhook as documented on 8 April or on 9 March 2026 (contract §8)."""
WebhookStatus = Literal["C", "X", "R"]
"""A status in which money came or went (contract §7)."""


def checked_webhook_url(url: str) -> str:
    """Return `url` if webhooks can be sent there; else `ValueError`."""
    try:
        HttpUrl(url)
    except ValidationError:
        raise ValueError("the webhook URL is not an http or https URL") from None
    return url


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The account's secrets and how the simulated world behaves; `ValueError` for what cannot work."""

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
    webhook_url: str | None = None
    """Where the completed payments are told of (contract §8); None: nowhere."""
    webhook_form: WebhookForm = "april"
    webhook_retries: int = 0
    """Attempts after the first, for an answer that is not 2xx; the real one most likely makes none."""
    webhook_statuses: tuple[WebhookStatus, ...] = ("C",)
    """What is told of; the real one most likely tells of `C` alone."""

    def __post_init__(self) -> None:
        if self.api_key.get_secret_value() in ("", "0"):
            raise ValueError('PHP takes an empty key and "0" for no key at all')
        if not self.webhook_secret.get_secret_value():
            raise ValueError("the webhook secret is empty")
        if self.webhook_url is not None:
            checked_webhook_url(self.webhook_url)
