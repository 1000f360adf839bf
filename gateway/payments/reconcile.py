"""Reconciliation: open sessions are matched with QuantaPay's newest transactions (interface §3.8).

QuantaPay may tell of a payment once or not at all, and surely not of one that is too small (contract §8). So it is
asked: one call lists the newest hundred transactions for all open sessions together. Further pages are read only while
they can hold a payment of a session that is due, and only of transactions in which money came: pending ones cost a
payer nothing, and any number of them could push a payment out of sight. Nobody waits for this, so it has the
background's share of the budget. When that is used up, or QuantaPay or Redis is away, the sessions stay due.

All processes take turns (`agenda.py`). While no session is open, QuantaPay is not called.
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import structlog

from gateway.clock import Clock, utc
from gateway.errors import StorageUnavailable, UpstreamError
from gateway.payments.agenda import Agenda, Turn
from gateway.payments.session import CLOCK_TOLERANCE, match, settle
from gateway.payments.sessions import Sessions
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.functions import GET_TRANSACTIONS
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.tasks import end
from gateway.telemetry.logs import frames_of
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

TICK = 1.0
"""Seconds between two looks at the agenda, on average: processes must not look in step."""
PAGE = 100
"""Rows of a full page (contract §6.3)."""
FURTHER_PAGES = (("C", 3), ("X", 1), ("R", 1))
"""By status, how many pages a sweep may read besides the first (contract §7). A payment further down is not found here:
its session waits for the webhook."""
MOST_REMEMBERED = 10_000
"""Payments; about 3 MB."""
REMEMBERED_FOR = 600.0
"""Seconds. Then a payment is applied again, in case Redis lost what became of it."""
SETTLED_AFTER = 2 * CLOCK_TOLERANCE
"""Age of a payment beyond which no session will be published that it could be for: they are older than it."""

_LIST = replace(GET_TRANSACTIONS, urgency=Urgency.BACKGROUND)


class Reconciliation:
    """A task that looks for the payments of open sessions."""

    def __init__(
        self,
        *,
        quantapay: QuantaPay,
        sessions: Sessions,
        agenda: Agenda,
        tolerance: Callable[[], Decimal],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`tolerance` returns how much less than the price counts as paid, in per cent."""
        self._quantapay = quantapay
        self._sessions = sessions
        self._agenda = agenda
        self._tolerance = tolerance
        self._clock = clock
        self._metrics = metrics
        self._applied = _Memory(clock, lasts=REMEMBERED_FOR)
        self._ambiguous = _Memory(clock, lasts=math.inf)
        """The ids of those already told of."""
        self._interrupted_by: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look at the agenda."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. A sweep that is cut short is another process's next turn."""
        await end(self._task)
        self._task = None

    async def sweep(self) -> None:
        """See to the open sessions, if any is due and the turn is ours. Never raises: what fails is tried again."""
        try:
            turn = await self._agenda.take_due()
            if turn is not None:
                await self._see_to(turn)
        except (UpstreamError, StorageUnavailable) as error:
            self._interrupted(error, error.code)
        except Exception as error:  # whatever it is, the next turn may go well
            self._interrupted(error, type(error).__name__)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(TICK * (0.5 + self._clock.random()))
            await self.sweep()

    async def _see_to(self, turn: Turn) -> None:
        try:
            await self._match_newest(turn.oldest)
            await self._agenda.advance(turn)
        finally:
            with suppress(StorageUnavailable):  # it ends by itself
                await self._agenda.release(turn)
        if self._interrupted_by is not None:
            log.info("reconciliation goes on")
            self._interrupted_by = None

    async def _match_newest(self, oldest: datetime) -> None:
        """Apply the payments made since the session made at `oldest`."""
        rows: dict[str, Transaction] = {}
        failure: UpstreamError | StorageUnavailable | None = None
        try:
            async for page in self._pages(oldest):
                rows.update({row.id: row for row in page})  # one that is listed again is as it is now
        except UpstreamError as error:
            failure = error
        for row in reversed(rows.values()):  # as they were made: of two payments the first counts
            try:
                await self._apply(row)
            except StorageUnavailable as error:  # perhaps of this one alone; if not, the others fail at once
                failure = error
        if failure is not None:
            raise failure

    async def _pages(self, oldest: datetime) -> AsyncIterator[tuple[Transaction, ...]]:
        newest = await self._quantapay.call(_LIST, {"page": "0"})
        yield newest
        if _is_last(newest, oldest):
            return
        for status, most in FURTHER_PAGES:
            for number in range(most):
                page = await self._quantapay.call(_LIST, {"page": str(number), "status": status})
                yield page
                if _is_last(page, oldest):
                    break

    async def _apply(self, payment: Transaction) -> None:
        """Move the session that `payment` is for, if it is for one. Raises only `StorageUnavailable`."""
        digest = hashlib.sha256(repr(payment).encode()).hexdigest()
        if payment.order_id is None or digest in self._applied:
            return
        try:
            await self._match(payment, payment.order_id)
        except StorageUnavailable:
            raise
        except Exception as error:  # whatever it is, it must not keep later payments from their sessions
            log.error("payment not applied", error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
        # A younger one may yet be for a session that is not there: it is looked at each time.
        if payment.created_at is not None and payment.created_at < utc(self._clock.time()) - SETTLED_AFTER:
            self._applied.add(digest)

    async def _match(self, payment: Transaction, order_id: str) -> None:
        sessions = await self._sessions.with_reference(order_id)
        session = match(sessions, payment)
        if session is None:
            if any(match([candidate], payment) for candidate in sessions):
                self._tell_ambiguous(payment)
            return
        tolerance = self._tolerance()
        moved = await self._sessions.move(
            session.id, lambda current: settle(current, payment, tolerance_percent=tolerance)
        )
        if moved is not None and moved.status.is_final:
            await self._agenda.remove(moved)

    def _tell_ambiguous(self, payment: Transaction) -> None:
        if payment.id in self._ambiguous:
            return
        self._ambiguous.add(payment.id)
        self._metrics.checkout_sessions.labels(event="ambiguous").inc()
        log.warning("a payment could be for several sessions, none was moved", transaction_id=payment.id)

    def _interrupted(self, error: Exception, cause: str) -> None:
        """Tell why sessions are not looked at, once until it changes."""
        if cause == self._interrupted_by:
            return
        self._interrupted_by = cause
        if isinstance(error, (UpstreamError, StorageUnavailable)):
            log.info("reconciliation interrupted", cause=cause)
        else:
            log.error("reconciliation interrupted", error=cause, frames=frames_of(error))


def _is_last(page: tuple[Transaction, ...], oldest: datetime) -> bool:
    """Tell whether the pages after this one are of no use to sessions made at `oldest` or later."""
    if len(page) < PAGE:
        return True
    reached = page[-1].created_at
    return reached is not None and reached < oldest - CLOCK_TOLERANCE


class _Memory:
    """Remembers texts for a while, and of very many the latest."""

    def __init__(self, clock: Clock, *, lasts: float) -> None:
        self._clock = clock
        self._lasts = lasts
        self._until: OrderedDict[str, float] = OrderedDict()
        """By text: until when, in monotonic seconds."""

    def __contains__(self, text: str) -> bool:
        return self._until.get(text, -math.inf) > self._clock.monotonic()

    def add(self, text: str) -> None:
        self._until[text] = self._clock.monotonic() + self._lasts
        self._until.move_to_end(text)
        if len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)
