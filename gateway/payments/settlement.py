"""What a payment changes: its session moves, subscribers are told, nobody looks for it any more (interface §3.8).

Webhooks and reconciliation bring the same payments, more than once and in several processes. The order of things is
what makes that, and a process killed between any two of them, harmless:

1. A payment that was told of in its status, with the same content, is done with. With other content it is in doubt.
2. Its session moves. Moving it again changes nothing.
3. The event is decided from where the session is now, and told. Telling it again tells nobody.
4. A session that is final leaves the agenda. Until then the next sweep comes back to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from gateway.clock import Clock, utc
from gateway.payments.agenda import Agenda
from gateway.payments.events import Events, PaymentEvent, Told, content
from gateway.payments.judge import Doubt, Unmatched, judge
from gateway.payments.session import Session, brings_money, match, question, settle
from gateway.payments.sessions import Sessions
from gateway.quantapay.models import Transaction
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A payment, and what it is for."""

    payment: Transaction
    confirmed: bool
    session: Session | None
    unmatched: Unmatched
    """Why there is no session, if there is none."""
    tell_unmatched: bool
    tolerance: Decimal

    @property
    def concerns_nobody(self) -> bool:
        """Whether nobody here has to do with the payment. One that several sessions can claim is always told of."""
        return self.session is None and self.unmatched != "ambiguous" and not self.tell_unmatched


class Settlement:
    """Applies payments, wherever they were learned of."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        agenda: Agenda,
        events: Events,
        tolerance: Callable[[], Decimal],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`tolerance` returns how much less than the price counts as paid, in per cent."""
        self._sessions = sessions
        self._agenda = agenda
        self._events = events
        self._tolerance = tolerance
        self._clock = clock
        self._metrics = metrics

    async def apply(
        self, payment: Transaction, *, confirmed: bool, doubted: bool = False, tell_unmatched: bool
    ) -> None:
        """Do all that follows from a payment. Doing it again is right, and changes nothing once this returned.

        `confirmed`: it was read from QuantaPay. `doubted`: QuantaPay was asked for it, and does not know it so.
        `tell_unmatched`: tell of it even if it is for no session; a list of all payments that were ever made holds
        those of others. Raises `StorageUnavailable`; any part may be done then, and it must be applied again.
        """
        case = await self._open(payment, confirmed=confirmed, tell_unmatched=tell_unmatched)
        if case.concerns_nobody:
            return
        doubt: Doubt | None = "not-confirmed" if doubted else None
        if brings_money(payment):
            told = await self._events.told(payment)
            if told == content(payment):
                # It may have been told by a process that was killed before its next step.
                await self._see_off(case.session)
                return
            if told is not None:
                doubt = doubt or "conflict"
        if await self._carry_out(case, doubt) == "conflict":
            # Another process told of it since we looked, with other content.
            await self._carry_out(case, "conflict")

    async def _open(self, payment: Transaction, *, confirmed: bool, tell_unmatched: bool) -> _Case:
        sessions = await self._sessions.with_reference(payment.order_id) if payment.order_id else []
        return _Case(
            payment=payment,
            confirmed=confirmed,
            session=match(sessions, payment),
            unmatched=_why_unmatched(sessions, payment),
            tell_unmatched=tell_unmatched,
            tolerance=self._tolerance(),
        )

    async def _carry_out(self, case: _Case, doubt: Doubt | None) -> Told | None:
        """Move, tell and see off; return what came of telling, if there was something to tell."""
        case = await self._move(case, doubt)
        told = await self._tell(case, doubt)
        await self._see_off(case.session)
        return told

    async def _move(self, case: _Case, doubt: Doubt | None) -> _Case:
        """Return the case with its session as the payment leaves it."""

        def change(current: Session) -> Session:
            if doubt is not None:
                return question(current, case.payment)
            return settle(current, case.payment, tolerance_percent=case.tolerance)

        if case.session is None:
            return case
        moved = await self._sessions.move(case.session.id, change)
        # A session that vanished meanwhile is one that there is not.
        return replace(case, session=moved, unmatched="no-session")

    async def _tell(self, case: _Case, doubt: Doubt | None) -> Told | None:
        verdict = judge(
            case.session,
            case.payment,
            tolerance_percent=case.tolerance,
            doubt=doubt,
            unmatched=case.unmatched,
        )
        if verdict is None or case.concerns_nobody:
            return None
        event = PaymentEvent(
            type=verdict.type,
            payment=case.payment,
            session=case.session,
            confirmed=case.confirmed,
            reason=verdict.reason,
            occurred_at=utc(self._clock.time()),
        )
        told = await self._events.tell(event)
        if told == "new" and event.type == "payment.unmatched":
            name = "ambiguous" if event.reason == "ambiguous" else "unmatched"
            self._metrics.checkout_sessions.labels(event=name).inc()
        return told

    async def _see_off(self, session: Session | None) -> None:
        """Take a session off the agenda if it is final."""
        if session is not None and session.status.is_final:
            await self._agenda.remove(session)


def _why_unmatched(sessions: Sequence[Session], payment: Transaction) -> Unmatched:
    """Say why `match` found none, if it did."""
    if not payment.order_id:
        return "no-reference"
    return "ambiguous" if any(match([candidate], payment) for candidate in sessions) else "no-session"
