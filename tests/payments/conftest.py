"""Where events go that nobody delivers."""

import asyncio

import pytest

from gateway.payments.events import PaymentEvent, Told, content
from gateway.quantapay.models import Transaction


class Heard:
    """Events that subscribers were told of, kept as the contract of `Events` has it."""

    def __init__(self) -> None:
        self.events: list[PaymentEvent] = []
        self.asked: list[str] = []
        """The ids of the payments that were asked for."""
        self._ids: set[str] = set()
        self._contents: dict[tuple[str, str], str] = {}

    def said(self) -> list[tuple[str, str | None, str]]:
        """Return the type, the reason and the payment's id of each event, in order."""
        return [(event.type, event.reason, event.payment.id) for event in self.events]

    def forget(self) -> None:
        """Lose what was told, as a Redis that lost its data has."""
        self._ids.clear()
        self._contents.clear()

    async def told(self, payment: Transaction) -> str | None:
        self.asked.append(payment.id)
        await asyncio.sleep(0)
        return self._contents.get((payment.id, payment.status))

    async def tell(self, event: PaymentEvent) -> Told:
        await asyncio.sleep(0)
        subject, digest = (event.payment.id, event.payment.status), content(event.payment)
        if event.reason not in {"not-confirmed", "conflict"}:
            there = self._contents.setdefault(subject, digest)
            if there != digest:
                return "conflict"
        if event.id in self._ids:
            return "known"
        self._ids.add(event.id)
        self.events.append(event)
        return "new"


@pytest.fixture
def heard() -> Heard:
    """Events that are remembered, and told to nobody."""
    return Heard()
