"""Which event a payment is, decided from the session as the payment left it (interface §3.8).

Nothing else goes into a decision, neither what happened before nor who asks. So who was interrupted between moving a
session and telling of it can decide again, and decides the same.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from gateway.config import EventName
from gateway.payments.events import Reason, content
from gateway.payments.session import Session, brings_money, is_enough, is_in_currency_of
from gateway.quantapay.models import Transaction

Doubt = Literal["not-confirmed", "conflict"]
"""Why nobody can be certain of a payment; see `Reason`."""
Unmatched = Literal["no-reference", "no-session", "ambiguous"]
"""Why a payment is for no session; see `Reason`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and its reason where the type does not say it all."""

    type: EventName
    reason: Reason | None = None


def judge(
    session: Session | None,
    payment: Transaction,
    *,
    tolerance_percent: Decimal,
    doubt: Doubt | None = None,
    unmatched: Unmatched = "no-session",
) -> Verdict | None:
    """Return what to tell of `payment`, or None if it brought no money.

    `session` is the one that the payment is for, after `settle`, or `question` if there is a `doubt`. Without one,
    `unmatched` says why. A doubt outweighs everything, and money that is too little or went back is told of as such,
    whatever it was for. `tolerance_percent`: how much less than the price counts as paid.
    """
    if doubt is not None and brings_money(payment):
        return Verdict("payment.mismatched", doubt)
    match payment.status:
        case "completed":
            if session is None:
                return Verdict("payment.unmatched", unmatched)
            return _judge_completed(session, payment, tolerance_percent)
        case "underpaid":
            return Verdict("payment.underpaid")
        case "refunded":
            return Verdict("payment.refunded")
        case "pending" | "unknown":
            return None


def _judge_completed(session: Session, payment: Transaction, tolerance_percent: Decimal) -> Verdict:
    counted = session.transaction if session.status.is_final else None
    if counted is not None and counted.id != payment.id:
        return Verdict("payment.duplicate")
    if counted is not None and (
        content(counted) == content(payment)  # whatever the tolerance was when it was counted
        or is_enough(session, payment, tolerance_percent=tolerance_percent)
    ):
        return Verdict("payment.completed")
    return Verdict("payment.mismatched", "amount" if is_in_currency_of(session, payment) else "currency")
