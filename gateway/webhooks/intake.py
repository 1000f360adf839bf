"""The intake: payments leave the inbox one after the other, are confirmed, and are settled (interface §3.8).

Every process takes from the same inbox. What a process was at when it was killed is due again when its lease ends;
settling a payment again changes nothing.
"""

import asyncio
import re
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol, assert_never

import structlog

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.payments.codec import decode_transaction
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.store.queue import Taken
from gateway.tasks import end
from gateway.telemetry.logs import frames_of
from gateway.webhooks.allowance import Allowance
from gateway.webhooks.confirmation import Accepted, Confirmation, Denied, Unknown, Unsupported
from gateway.webhooks.inbox import Inbox

log = structlog.get_logger()

HANDFUL = 4
"""Payments seen to at once by a process."""
POLL = 1.0
"""Seconds between two looks at an empty inbox, on average: other processes fill it too."""
PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds until a payment is seen to again; the last is repeated."""
DENIED_FOR = 600.0
"""Seconds of such pauses for which a payment is held that QuantaPay does not know."""
HELD_FOR = 48 * 3600.0
"""Seconds after which a payment is held no longer, whatever the reason."""

POSTPONED = 30.0
"""Seconds, on average, until it is seen again whether QuantaPay may be asked for a payment."""
UNSUPPORTED = 3
"""Times in a row that QuantaPay must say that it cannot be asked, until a payment counts without: one odd answer must
not be all that stands between an invented payment and a paid session."""
UNSUPPORTED_PAUSE = 1.0
"""Seconds between them."""

UNASKED = "QuantaPay was not asked"


class Turn(Enum):
    """What came of seeing to some payments."""

    NOTHING_DUE = auto()
    TAKEN = auto()
    IN_VAIN = auto()
    """QuantaPay or Redis is away, or our limits keep calls back. Others would fare no better just now."""


class Settles(Protocol):
    """What `payments.settlement.Settlement` does."""

    async def apply(
        self, payment: Transaction, *, confirmed: bool, doubted: bool = False, tell_unmatched: bool
    ) -> None:
        """Do all that follows from a payment. Raises `StorageUnavailable`; doing it again is right then."""


class Intake:
    """A task that sees to the inbox."""

    def __init__(
        self, inbox: Inbox, confirmation: Confirmation, settlement: Settles, allowance: Allowance, *, clock: Clock
    ) -> None:
        self._allowance = allowance
        self._inbox = inbox
        self._queue = inbox.queue
        self._confirmation = confirmation
        self._settlement = settlement
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take from the inbox."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. What is under way is another process's when its lease ends."""
        await end(self._task)
        self._task = None

    async def see_to_some(self) -> Turn:
        """See to a handful of payments that are due. Never raises."""
        self._inbox.arrived.clear()
        try:
            taken = await self._queue.take(HANDFUL)
        except StorageUnavailable:
            return Turn.NOTHING_DUE
        except Exception as error:  # whatever it is, the next look may go well
            log.error("inbox not read", error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
            return Turn.NOTHING_DUE
        if not taken:
            return Turn.NOTHING_DUE
        answered = await asyncio.gather(*map(self._see_to, taken))
        return Turn.TAKEN if any(answered) else Turn.IN_VAIN

    async def _run(self) -> None:
        while True:
            turn = await self.see_to_some()
            pause = POLL * (0.5 + self._clock.random())
            if turn is Turn.NOTHING_DUE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._inbox.arrived.wait()
            elif turn is Turn.IN_VAIN:
                await self._clock.sleep(pause)

    async def _see_to(self, taken: Taken) -> bool:
        """Judge a payment; tell whether QuantaPay and Redis let it be judged."""
        try:
            return await self._judge(taken, decode_transaction(taken.message))
        except StorageUnavailable:
            pass  # the lease ends by itself
        except Exception as error:  # whatever it is, it must not hold up others
            log.error("payment not judged", error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
            with suppress(StorageUnavailable):
                if taken.age >= HELD_FOR:
                    log.error("a webhook is given up: it could not be judged for two days", webhook=taken.id)  # noqa: TRY400 - the text stays out
                    await self._queue.bury(taken, error=type(error).__name__)
                else:
                    await self._put_off(taken, type(error).__name__, pause=_pause(taken.attempts))
        return False

    async def _judge(self, taken: Taken, payment: Transaction) -> bool:
        """Do what QuantaPay's answer asks for; tell whether there was one."""
        urgency: Urgency | None = Urgency.URGENT
        if self._confirmation.asks(payment):
            urgency = await self._allowance.urgency(payment, first=_is_unasked(taken))
        if urgency is None:
            await self._put_off(taken, taken.error or UNASKED, pause=POSTPONED * (0.5 + self._clock.random()))
            return True
        answer = await self._confirmation.check(payment, urgency=urgency)
        match answer:
            case Accepted():
                await self._settlement.apply(answer.payment, confirmed=answer.confirmed, tell_unmatched=True)
                await self._queue.finish(taken)
            case Denied():
                await self._hold_denied(taken, payment)
            case Unsupported():
                await self._hold_unsupported(taken, payment)
            case Unknown():
                await self._hold_unknown(taken, payment, answer)
            case _:
                assert_never(answer)
        return not isinstance(answer, Unknown)

    async def _hold_denied(self, taken: Taken, payment: Transaction) -> None:
        """Wait for QuantaPay to know the payment; only pauses that follow a denial count, so no outage uses them up."""
        denials = _denials(taken)
        if denials == 0:
            log.info("payment not confirmed yet", transaction_id=payment.id)
        if sum(map(_pause, range(denials))) >= DENIED_FOR:
            await self._give_up(taken, payment)
        else:
            await self._queue.retry(taken, after=_pause(denials), error=f"denied {denials + 1} times")

    async def _hold_unsupported(self, taken: Taken, payment: Transaction) -> None:
        """Ask again, and take the payment as its webhook told it if the answer stays the same."""
        times = _counted(taken, "unsupported") + 1
        if times < UNSUPPORTED:
            await self._queue.retry(taken, after=UNSUPPORTED_PAUSE, error=f"unsupported {times} times")
            return
        log.warning("payment counts without confirmation: QuantaPay says it has no such function")
        await self._settlement.apply(payment, confirmed=False, tell_unmatched=True)
        await self._queue.finish(taken)

    async def _hold_unknown(self, taken: Taken, payment: Transaction, answer: Unknown) -> None:
        if taken.age >= HELD_FOR:
            await self._give_up(taken, payment)
            return
        error = answer.cause if answer.asked or not _is_unasked(taken) else UNASKED
        await self._put_off(taken, error, pause=_pause(taken.attempts - _denials(taken)))

    async def _give_up(self, taken: Taken, payment: Transaction) -> None:
        """Tell of a payment that nobody could confirm."""
        await self._settlement.apply(payment, confirmed=False, doubted=True, tell_unmatched=True)
        await self._queue.finish(taken)

    async def _put_off(self, taken: Taken, error: str, *, pause: float) -> None:
        """Have the payment be due again. What QuantaPay once said of it is not forgotten over other failures."""
        await self._queue.retry(taken, after=pause, error=taken.error if _denials(taken) else error)


def _is_unasked(taken: Taken) -> bool:
    """Tell whether QuantaPay has not been asked for the payment yet."""
    return taken.attempts == 0 or taken.error == UNASKED


def _pause(number: int) -> float:
    return PAUSES[min(number, len(PAUSES) - 1)]


def _denials(taken: Taken) -> int:
    """Return how often QuantaPay did not know the payment."""
    return _counted(taken, "denied")


def _counted(taken: Taken, what: str) -> int:
    """Read back what was noted at the last attempt."""
    found = re.fullmatch(f"{what} ([0-9]+) times", taken.error)
    return int(found[1]) if found else 0
