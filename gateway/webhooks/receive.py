"""QuantaPay's webhooks, from the JSON document to the inbox (interface §3.8, contract §8).

QuantaPay proves itself by its secret in clear, as the body's `key`. The key goes no further than `Receiver.admits`:
of the rest only the fields of a payment are read, into a value of their own.
"""

import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

from pydantic import SecretStr

from gateway.errors import (
    FieldFault,
    GatewayError,
    InvalidSignature,
    OriginNotAllowed,
    RateLimited,
    StorageUnavailable,
    UpstreamError,
    ValidationFailed,
    WebhooksNotConfigured,
)
from gateway.quantapay import readers
from gateway.quantapay.models import Transaction
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.inbox import Inbox

exact = Decimal
"""Reads a number with a point or an exponent with all its digits."""

LONGEST_ID = 64
"""Characters; QuantaPay counts its payments."""
LONGEST_TEXT = 256
"""Characters that are kept of any other text: one more than the longest order id, so that none becomes another."""
RETRY_AFTER = 60
"""Seconds, while there is no secret: nothing changes before somebody configures one."""

_OF_MONEY = frozenset({"completed", "underpaid", "refunded"})
_OUTCOMES: Mapping[type[GatewayError], str] = {
    InvalidSignature: "wrong-key",
    RateLimited: "rate-limited",
    OriginNotAllowed: "not-allowed",
    WebhooksNotConfigured: "not-configured",
    StorageUnavailable: "unavailable",
}
"""How refusals are counted; all others are `malformed`."""


class Receiver:
    """Takes webhooks in, and counts them by what became of them."""

    def __init__(self, keys: Sequence[SecretStr], inbox: Inbox, *, metrics: Metrics) -> None:
        """`keys`: the secrets that are good now, two while they are rotated. Without one, nothing is taken."""
        self._keys = tuple(keys)
        self._inbox = inbox
        self._metrics = metrics

    def require_configured(self) -> None:
        """Raise `WebhooksNotConfigured` if there is no secret."""
        if not self._keys:
            raise WebhooksNotConfigured(retry_after=RETRY_AFTER)

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Tell whether a webhook shows one of the secrets. How long that takes says nothing of them."""
        key = document.get("key")
        if not isinstance(key, str) or not key:
            return False
        # JSON can spell half of a surrogate pair, which no secret has.
        shown = key.encode("utf-8", "surrogatepass")
        found = [hmac.compare_digest(shown, secret.get_secret_value().encode()) for secret in self._keys]
        return any(found)

    async def take(self, document: Mapping[str, Any]) -> None:
        """Put the payment of a webhook in the inbox, unless its status says nothing of money.

        Raises `ValidationFailed`, or `StorageUnavailable` if it may not have been kept.
        """
        payment = payment_of(document)
        if payment.status in _OF_MONEY:
            await self._inbox.put(payment)
            self._count("queued")
        else:
            self._count("ignored")

    def count_refusal(self, error: GatewayError) -> None:
        """Count a webhook that was answered with an error."""
        self._count(_OUTCOMES.get(type(error), "malformed"))

    def _count(self, outcome: str) -> None:
        self._metrics.webhooks_received.labels(outcome=outcome).inc()


def payment_of(document: Mapping[str, Any]) -> Transaction:
    """Read the payment of a webhook: both dated forms, numbers as texts or numbers, and fields not known here.

    Its numbers are to be `exact`. Raises `ValidationFailed`, which names the place and repeats nothing.
    """
    row = document.get("transaction")
    if not isinstance(row, dict):
        raise _invalid("Expected an object.", "#/transaction")
    payment: Transaction | None = None
    with suppress(UpstreamError):
        payment = readers.transaction(row)
    if payment is None:
        raise _invalid("This is required, as a text or a number.", "#/transaction/id")
    if len(payment.id) > LONGEST_ID:
        raise _invalid(f"At most {LONGEST_ID} characters.", "#/transaction/id")
    return _bounded(payment)


def _invalid(detail: str, pointer: str) -> ValidationFailed:
    return ValidationFailed(faults=[FieldFault(detail, pointer=pointer)])


def _bounded(payment: Transaction) -> Transaction:
    """Cut texts to what is of use, and put U+FFFD for halves of surrogate pairs, which nothing of ours can carry."""
    texts: dict[str, Any] = {
        name: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")[:LONGEST_TEXT]
        for name in (field.name for field in fields(payment))
        if isinstance(text := getattr(payment, name), str)
    }
    return replace(payment, **texts)
