"""Which calls for payments may be made: those that somebody waits for first, and never so many that others go short."""

from dataclasses import replace

import pytest

from gateway.clock import SystemClock
from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.quota import Quota
from gateway.webhooks.allowance import FOR_AN_ORDER, Allowance
from tests.plugins.payments import payment, session

SESSION, PAYMENT = session(), payment()
OTHERS = 12
"""Of a budget of 90 a minute."""


class HeldClock(SystemClock):
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Sessions:
    def __init__(self) -> None:
        self.found = [SESSION]

    async def with_reference(self, order_id: str) -> list[Session]:
        return [session for session in self.found if session.order_id == order_id]


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def allowance_of(sessions: Sessions, clock: HeldClock, *, processes: int = 1, budget: str = "90/minute") -> Allowance:
    return Allowance(sessions, budget=Quota.parse(budget), processes=lambda: processes, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def allowance(sessions: Sessions, clock: HeldClock) -> Allowance:
    return allowance_of(sessions, clock)


async def many(allowance: Allowance, count: int, payment: Transaction, *, first: bool) -> list[Urgency | None]:
    return [await allowance.urgency(payment, first=first) for _ in range(count)]


async def test_a_payment_that_an_open_session_waits_for_is_urgent_at_first(allowance: Allowance) -> None:
    assert await allowance.urgency(PAYMENT, first=True) is Urgency.URGENT
    assert await allowance.urgency(PAYMENT, first=False) is Urgency.BACKGROUND


@pytest.mark.parametrize("order_id", [None, "", "ORD-2", "\ud800"])
async def test_one_that_nobody_waits_for_is_not(allowance: Allowance, order_id: str | None) -> None:
    assert await allowance.urgency(replace(PAYMENT, order_id=order_id), first=True) is Urgency.BACKGROUND


@pytest.mark.parametrize(
    ("status", "urgency"),
    [
        (SessionStatus.UNDERPAID, Urgency.URGENT),
        (SessionStatus.NEEDS_REVIEW, Urgency.URGENT),
        (SessionStatus.PAID, Urgency.BACKGROUND),
        (SessionStatus.REFUNDED, Urgency.BACKGROUND),
    ],
)
async def test_a_session_waits_until_its_status_is_final(
    allowance: Allowance, sessions: Sessions, status: SessionStatus, urgency: Urgency
) -> None:
    sessions.found = [replace(SESSION, status=status)]
    assert await allowance.urgency(PAYMENT, first=True) is urgency


async def test_payments_of_one_order_are_urgent_a_few_times_a_minute(
    allowance: Allowance, sessions: Sessions, clock: HeldClock
) -> None:
    urgent = FOR_AN_ORDER.amount
    found = await many(allowance, urgent + OTHERS + 5, PAYMENT, first=True)
    assert found == [Urgency.URGENT] * urgent + [Urgency.BACKGROUND] * OTHERS + [None] * 5
    sessions.found.append(replace(SESSION, id="cs_2", order_id="ORD-2"))
    assert await allowance.urgency(replace(PAYMENT, order_id="ORD-2"), first=True) is Urgency.URGENT
    clock.now += 60
    assert await allowance.urgency(PAYMENT, first=True) is Urgency.URGENT


@pytest.mark.parametrize(
    ("processes", "budget", "most"), [(1, "90/minute", 12), (4, "90/minute", 3), (4, "3/minute", 1)]
)
async def test_all_others_share_a_part_that_leaves_some_to_reconciliation(
    sessions: Sessions, clock: HeldClock, processes: int, budget: str, most: int
) -> None:
    allowance = allowance_of(sessions, clock, processes=processes, budget=budget)
    nobodys = replace(PAYMENT, order_id="elsewhere")
    assert await many(allowance, 20, nobodys, first=True) == [Urgency.BACKGROUND] * most + [None] * (20 - most)
