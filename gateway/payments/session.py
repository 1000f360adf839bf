"""A checkout session, and how a payment moves it (interface §3.5, §3.8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from gateway.quantapay.models import Transaction

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How much older than its session a payment may look: QuantaPay refuses signed calls beyond this skew anyway."""


class SessionStatus(StrEnum):
    """How far the payment of a session is. It moves only forward, in this order."""

    OPEN = "open"
    UNDERPAID = "underpaid"
    NEEDS_REVIEW = "needs_review"
    """Paid, but the amount or the currency is not what was asked for; or said to be paid, and it is not certain."""
    PAID = "paid"
    REFUNDED = "refunded"

    @property
    def is_final(self) -> bool:
        """Return whether the customer has nothing more to wait for."""
        return self in {SessionStatus.PAID, SessionStatus.REFUNDED}


_ORDER = list(SessionStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A price that a customer was asked to pay, and what came of it."""

    id: str
    client_id: str
    price: str
    """Decimal text, as it was sent to QuantaPay."""
    currency: str
    """In lower case."""
    order_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    payment_url: str
    created_at: datetime
    """UTC, whole seconds."""
    status: SessionStatus = SessionStatus.OPEN
    version: int = 1
    """Counts the changes; the id of its events."""
    transaction: Transaction | None = None
    """The payment that the status is due to, or one under way."""


def settle(session: Session, payment: Transaction, *, tolerance_percent: Decimal) -> Session:
    """Return the session as `payment` leaves it. Only this and `question` move a status, and only this to a final one.

    The session itself, unchanged, if the payment says nothing new. `tolerance_percent`: how much less than the price
    counts as paid. The payer can edit the payment page, so the amount in a genuine payment is compared with what was
    asked for, exactly.
    """
    status = _status_after(session, payment, tolerance_percent)
    if _ORDER.index(status) < _ORDER.index(session.status):
        return session
    if status == session.status and not _may_replace(session, payment):
        return session
    if (status, payment) == (session.status, session.transaction):
        return session
    return replace(session, status=status, transaction=payment, version=session.version + 1)


def question(session: Session, payment: Transaction) -> Session:
    """Return the session as a payment leaves it that nobody can be certain of: to be looked at by a person, at most.

    The session itself, unchanged, if it is to be reviewed already, paid or refunded, or if the payment brought no
    money. The payment is shown with the status `unknown`, which is what its status is.
    """
    if not brings_money(payment) or session.status not in {SessionStatus.OPEN, SessionStatus.UNDERPAID}:
        return session
    doubtful = replace(payment, status="unknown")
    return replace(session, status=SessionStatus.NEEDS_REVIEW, transaction=doubtful, version=session.version + 1)


def match(sessions: Sequence[Session], payment: Transaction) -> Session | None:
    """Return the one session that `payment` can be for, or None if there is none or nobody can tell.

    All `sessions` have the payment's reference, byte for byte. A payment that moved one of them is that one's for good,
    so none pays twice; one that was only doubted is not, as it may have been invented. A session made after the payment
    is not meant, and one that is paid only if no other is open. Several that ask for the same are one order, asked for
    again after a broken connection: the newest stands for it.
    """
    for session in sessions:
        shown = session.transaction
        if shown is not None and shown.id == payment.id and not _is_in_doubt(session):
            return session
    possible = [session for session in sessions if _can_be_for(session, payment)]
    meant = [session for session in possible if not session.status.is_final] or possible
    if len({(Decimal(session.price), session.currency) for session in meant}) != 1:
        return None
    return max(meant, key=lambda session: (session.created_at, session.id))


def brings_money(payment: Transaction) -> bool:
    """Tell whether a payment was made, be it too small or given back, and is not only under way or of unknown state."""
    return payment.status not in {"pending", "unknown"}


def is_enough(session: Session, payment: Transaction, *, tolerance_percent: Decimal) -> bool:
    """Tell whether a payment is of the session's price, or more, in its currency."""
    if payment.fiat_amount is None or not is_in_currency_of(session, payment):
        return False
    # A comparison is exact; a product of QuantaPay's number, which can have any number of digits, is not.
    return payment.fiat_amount >= (Decimal(session.price) * (100 - tolerance_percent)).scaleb(-2)


def is_in_currency_of(session: Session, payment: Transaction) -> bool:
    """Tell whether a payment says that it is in the session's currency; case does not count."""
    return (payment.currency or "").lower() == session.currency


def _is_in_doubt(session: Session) -> bool:
    """Tell whether the payment that is shown is one that `question` put there, and no other function can have."""
    shown = session.transaction
    return session.status is SessionStatus.NEEDS_REVIEW and shown is not None and shown.status == "unknown"


def _can_be_for(session: Session, payment: Transaction) -> bool:
    return payment.created_at is None or payment.created_at >= session.created_at - CLOCK_TOLERANCE


def _status_after(session: Session, payment: Transaction, tolerance_percent: Decimal) -> SessionStatus:
    match payment.status:
        case "completed":
            enough = is_enough(session, payment, tolerance_percent=tolerance_percent)
            return SessionStatus.PAID if enough else SessionStatus.NEEDS_REVIEW
        case "underpaid":
            return SessionStatus.UNDERPAID
        case "refunded":
            return _status_after_refund(session, payment, tolerance_percent)
        case "pending" | "unknown":
            return SessionStatus.OPEN


def _may_replace(session: Session, payment: Transaction) -> bool:
    """Tell whether a payment that moves nothing is the one to show."""
    shown = session.transaction
    if shown is None or shown.id == payment.id or _is_in_doubt(session):
        return True
    # Choosing another coin makes another row, and the customer looks at the newest. Once money came the first stays.
    return session.status is SessionStatus.OPEN and (len(payment.id), payment.id) > (len(shown.id), shown.id)


def _status_after_refund(session: Session, payment: Transaction, tolerance_percent: Decimal) -> SessionStatus:
    """Only the price that was paid and given back ends an order; after any other refund it can still be paid.

    Otherwise a stranger's cent, paid with an edited reference and given back, would close somebody's order.
    """
    shown = session.transaction
    is_of_the_shown = shown is not None and shown.id == payment.id
    match session.status:
        case SessionStatus.PAID | SessionStatus.REFUNDED:
            return SessionStatus.REFUNDED if is_of_the_shown else session.status
        case SessionStatus.OPEN:
            enough = is_enough(session, payment, tolerance_percent=tolerance_percent)
            return SessionStatus.REFUNDED if enough else SessionStatus.NEEDS_REVIEW
        case SessionStatus.UNDERPAID | SessionStatus.NEEDS_REVIEW:
            return session.status
