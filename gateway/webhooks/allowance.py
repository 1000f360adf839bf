"""How often QuantaPay is asked for payments that somebody may have made up.

Whoever learns the webhook secret can invent any number of payments, and each costs a call out of a budget that creates
and reconciliation need too. So a call for a payment that an open session waits for is urgent, a few times a minute for
each order; all others together get a part of the background's share, and the rest of that stays reconciliation's.
"""

import hashlib
from collections.abc import Callable

from gateway.access.limits import Limit, Limits
from gateway.access.limits_local import LocalLimiter
from gateway.clock import Clock
from gateway.payments.sessions import Sessions
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.quota import Quota

FOR_AN_ORDER = Quota(6, 60)
"""Urgent calls for the payments of one order: customers pay once, or twice."""
PART_OF_BUDGET = 2 / 15
"""For all other payments: two thirds of the background's fifth (interface §2.3)."""


class Allowance:
    """Says how a payment may be asked for. Counted by each process, which has its share."""

    def __init__(self, sessions: Sessions, *, budget: Quota, processes: Callable[[], int], clock: Clock) -> None:
        """`budget` is that of all calls to QuantaPay, `processes` returns over how many it is spread."""
        self._sessions = sessions
        self._limiter = LocalLimiter(clock, processes)
        self._others = Quota(max(1, int(budget.amount * PART_OF_BUDGET)), budget.window)

    async def urgency(self, payment: Transaction, *, first: bool) -> Urgency | None:
        """Return which part of the budget a call may use now, None if it has to wait. `first`: it was never asked for.

        Raises `StorageUnavailable`.
        """
        if first and payment.order_id and await self._is_awaited(payment.order_id):
            name = hashlib.sha256(payment.order_id.encode("utf-8", "surrogatepass")).hexdigest()
            if await self._take(f"order:{name}", FOR_AN_ORDER):
                return Urgency.URGENT
        return Urgency.BACKGROUND if await self._take("others", self._others) else None

    async def _is_awaited(self, order_id: str) -> bool:
        sessions = await self._sessions.with_reference(order_id)
        return any(not session.status.is_final for session in sessions)

    async def _take(self, key: str, quota: Quota) -> bool:
        decision = await self._limiter.take(Limits(Limit("client", policy="", key=key, quota=quota)))
        return decision.allowed
