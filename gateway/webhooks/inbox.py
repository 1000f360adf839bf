"""The inbox: payments that QuantaPay's webhooks told of, kept until they are judged.

QuantaPay tells of a payment once, and likely never again (contract §8). So its webhook is answered only when the
payment lies here, where it outlives the processes and the loss of Redis's primary.
"""

import asyncio
import hashlib
from collections.abc import Callable

from gateway.errors import StorageUnavailable
from gateway.payments.codec import encode_transaction
from gateway.payments.events import content
from gateway.quantapay.models import Transaction
from gateway.store.queue import Put, Queue, put
from gateway.store.redis import Store

NAME = "inbox"
LEASE_OUTLIVES_DEADLINE = 30.0
"""Seconds that a taken payment is leased beyond the deadline of the call it takes to judge it."""
MOST = 20_000
"""Payments: about 20 MB, and at most 700, as their texts are cut (`receive.py`)."""
AT_ONCE = 8
"""Payments that a process puts in at once. Of a burst the others wait their turn here, where no deadline runs yet: each
takes about a millisecond of the processor, and those of a hundred would outlast Redis's."""
RETRY_AFTER = 60
"""Seconds, while the inbox is full."""


class Inbox:
    """A durable queue of payments that wait to be judged. A message is what `encode_transaction` writes."""

    def __init__(self, store: Store, *, deadline: float, on_refused: Callable[[], None]) -> None:
        """`deadline`: seconds that a call to QuantaPay may take.

        `on_refused` is called when a payment could not be kept: somebody must look for it later.
        """
        self._store = store
        self._on_refused = on_refused
        self.queue = Queue(store, NAME, lease=deadline + LEASE_OUTLIVES_DEADLINE)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.arrived = asyncio.Event()
        """Set when something was put here by this process."""

    async def put(self, payment: Transaction) -> None:
        """Keep a payment; one that lies here already, as it is, is kept once.

        Raises `StorageUnavailable` if it may not be kept, also if the inbox is full.
        """
        try:
            async with self._slots:
                await self._keep(payment)
        except StorageUnavailable:
            self._on_refused()
            raise
        self.arrived.set()

    async def _keep(self, payment: Transaction) -> None:
        outcome = await put(
            self._store,
            [self.queue],
            _digest(payment.id, payment.status, content(payment)),
            encode_transaction(payment),
            most=MOST,
        )
        if outcome is Put.FULL:
            raise StorageUnavailable("Too many webhooks wait to be judged.", retry_after=RETRY_AFTER)


def _digest(*parts: str) -> str:
    """Name what a sender made up, of any length and in any Unicode."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
