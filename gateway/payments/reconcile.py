"""Reconciliation: QuantaPay's newest transactions are applied to the open sessions (interface §3.8).

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
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog

from gateway.clock import Clock, utc
from gateway.errors import StorageUnavailable, UpstreamError
from gateway.payments.agenda import Agenda, Turn
from gateway.payments.session import CLOCK_TOLERANCE
from gateway.payments.settlement import Settlement
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.functions import GET_TRANSACTIONS
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.tasks import end
from gateway.telemetry.logs import frames_of

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

    def __init__(self, *, quantapay: QuantaPay, agenda: Agenda, settlement: Settlement, clock: Clock) -> None:
        self._quantapay = quantapay
        self._agenda = agenda
        self._settlement = settlement
        self._clock = clock
        self._applied = _Memory(clock, lasts=REMEMBERED_FOR)
        self._must_hasten = False
        self._interrupted_by: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look at the agenda."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. A sweep that is cut short is another process's next turn."""
        await end(self._task)
        self._task = None

    def hasten(self) -> None:
        """Have all open sessions looked at as soon as Redis is there: a webhook had to be refused without it.

        QuantaPay may not send it again (contract §8).
        """
        self._must_hasten = True

    async def sweep(self) -> None:
        """See to the open sessions, if any is due and the turn is ours. Never raises: what fails is tried again."""
        try:
            await self._hasten_if_asked()
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

    async def _hasten_if_asked(self) -> None:
        if not self._must_hasten:
            return
        self._must_hasten = False  # before it is done: a webhook that is refused meanwhile asks again
        try:
            await self._agenda.hasten()
        except StorageUnavailable:
            self._must_hasten = True
            raise
        self._applied.clear()  # a Redis that comes back may have lost what became of them
        log.info("looking at all open sessions: a webhook was refused while redis was away")

    async def _see_to(self, turn: Turn) -> None:
        try:
            await self._apply_newest(turn.oldest)
            await self._agenda.advance(turn)
        finally:
            with suppress(StorageUnavailable):  # it ends by itself
                await self._agenda.release(turn)
        if self._interrupted_by is not None:
            log.info("reconciliation goes on")
            self._interrupted_by = None

    async def _apply_newest(self, oldest: datetime) -> None:
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
        """Have a payment settled, if it can be for a session. Raises only `StorageUnavailable`."""
        digest = hashlib.sha256(repr(payment).encode()).hexdigest()
        if payment.order_id is None or digest in self._applied:
            return
        try:
            await self._settlement.apply(payment, confirmed=True, tell_unmatched=False)
        except StorageUnavailable:
            raise
        except Exception as error:  # whatever it is, it must not keep later payments from their sessions
            log.error("payment not applied", error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
        # A younger one may yet be for a session that is not there: it is looked at each time.
        if payment.created_at is not None and payment.created_at < utc(self._clock.time()) - SETTLED_AFTER:
            self._applied.add(digest)

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

    def clear(self) -> None:
        self._until.clear()

    def add(self, text: str) -> None:
        self._until[text] = self._clock.monotonic() + self._lasts
        self._until.move_to_end(text)
        if len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)
