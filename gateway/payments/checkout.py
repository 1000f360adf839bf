"""Making checkout sessions: a price becomes a page, and the page's session is kept before anybody sees it.

The order of things is what makes a lost connection, a killed process or a second tab harmless:

1. The order id becomes the client's, or is refused. A browser's order is claimed as a whole too.
2. QuantaPay makes a page.
3. The session is stored.
4. What claims there are on it (an idempotency key, the order) are completed. Who lost its claim shows nothing.
5. The session is published: from now on a payment with its reference is matched to it. Then it is answered.

So a session that was never shown is never published, and cannot stand in the way when its order is paid by another.
"""

import asyncio
import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

import structlog

from gateway.clock import Clock, utc
from gateway.errors import (
    IdempotencyInProgress,
    OrderAlreadyPaid,
    OrderConflict,
    StorageUnavailable,
)
from gateway.payments.session import Session
from gateway.payments.sessions import Sessions
from gateway.quantapay.client import QuantaPay
from gateway.store.orders import OrderClaim, Orders, OrderSessions, Taken, UnderWay
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

FIRST_POLL, SLOWEST_POLL = 0.05, 0.5
"""Seconds until the first look at what an equal request is making, and at most between two: each wait is longer than
the one before, and jittered."""
LEAST_LEFT = 1.0
"""Seconds of a request's time without which it makes no page of its own any more."""

Found: TypeAlias = tuple[Session, bool]
"""A session, and whether it was made just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer is to be asked for."""

    price: str
    """Decimal text, sent to QuantaPay as it is."""
    currency: str
    """In lower case."""
    order_id: str | None = None
    """The caller's reference; without one the session's id is used."""
    metadata: dict[str, str] = field(default_factory=dict)


class Checkout:
    """Makes sessions. Raises the errors under `UpstreamError` and those named at each method."""

    def __init__(
        self,
        *,
        orders: Orders,
        order_sessions: OrderSessions,
        sessions: Sessions,
        quantapay: QuantaPay,
        timeout: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`timeout`: seconds for all of a request: waiting for an equal one that is under way, and making a page."""
        self._orders = orders
        self._order_sessions = order_sessions
        self._sessions = sessions
        self._quantapay = quantapay
        self._timeout = timeout
        self._clock = clock
        self._metrics = metrics

    async def make(self, client_id: str, order: Order) -> Session:
        """Make a session for a client that may make as many as it likes; it is not published yet.

        Raises `OrderIdTaken`, and `StorageUnavailable` that says in `outcome` whether a page was made.
        """
        session_id = self._new_id()
        order_id = order.order_id or session_id
        await self._orders.claim(client_id, order_id)
        return await self._make(session_id, client_id, order, order_id)

    async def publish(self, session: Session) -> None:
        """Have payments matched to `session`; to be done before it is shown. Doing it again changes nothing."""
        await self._sessions.publish(session)

    async def publish_again(self, session_id: str) -> None:
        """Publish a session that is about to be shown a second time: its first showing may have ended before."""
        session = await self._sessions.get(session_id)
        if session is not None and not session.status.is_final:
            await self._sessions.publish(session)

    async def find_or_make(self, client_id: str, order: Order, *, order_id: str) -> Found:
        """Return the one session of an order, published: the one there is, or a new one.

        Raises `OrderIdTaken`, `OrderConflict`, `OrderAlreadyPaid`, `IdempotencyInProgress` if an equal request takes
        longer than this one's patience, and `StorageUnavailable`.
        """
        await self._orders.claim(client_id, order_id)
        price = Decimal(order.price).normalize()  # 5 and 5.00 are one price
        asked = hashlib.sha256(f"{price:f}|{order.currency}".encode()).hexdigest()
        deadline, pause = self._clock.monotonic() + self._timeout, FIRST_POLL
        while True:
            match await self._order_sessions.claim(client_id, order_id, asked):
                case OrderClaim() as claim:
                    return await self._fulfil(claim, client_id, order, order_id, deadline)
                case Taken() as taken:
                    return await self._again(taken), False
                case UnderWay(same=same):
                    if not same or self._clock.monotonic() + pause > deadline - LEAST_LEFT:
                        raise IdempotencyInProgress("A request for this order is under way.", retry_after=1)
            await self._clock.sleep(pause * (0.5 + self._clock.random() / 2))
            pause = min(2 * pause, SLOWEST_POLL)

    async def _fulfil(self, claim: OrderClaim, client_id: str, order: Order, order_id: str, deadline: float) -> Found:
        try:
            left = deadline - self._clock.monotonic()
            made = await self._make(self._new_id(), client_id, order, order_id, within=left)
        except BaseException:  # a cancelled request too: who asks again need not wait for the claim to end
            await asyncio.shield(claim.release())
            raise
        shown = await claim.complete(made.id)
        if shown != made.id:
            return await self._again(Taken(shown, same=True)), False
        await self._sessions.publish(made)
        return made, True

    async def _again(self, taken: Taken) -> Session:
        """Return an order's session for a page that asks again."""
        session = await self._sessions.get(taken.session_id)
        if session is None:
            # Stored before the order named it, and kept longer: Redis lost it.
            log.error("the session of an order is gone", session_id=taken.session_id)
            raise StorageUnavailable(retry_after=1)
        if session.status.is_final:
            raise OrderAlreadyPaid
        if not taken.same:
            raise OrderConflict
        await self._sessions.publish(session)
        self._metrics.checkout_sessions.labels(event="found").inc()
        return session

    async def _make(
        self, session_id: str, client_id: str, order: Order, order_id: str, *, within: float | None = None
    ) -> Session:
        created_at = utc(self._clock.time())
        page = await self._quantapay.create_checkout_session(
            price=order.price, currency=order.currency, order_id=order_id, within=within
        )
        session = Session(
            id=session_id,
            client_id=client_id,
            price=order.price,
            currency=order.currency,
            order_id=order_id,
            metadata=order.metadata,
            payment_url=page.payment_url,
            created_at=created_at,
        )
        await self._sessions.create(session)
        self._metrics.checkout_sessions.labels(event="created").inc()
        return session

    def _new_id(self) -> str:
        return f"cs_{self._clock.token_hex(16)}"
