"""What a webhook tells lies in Redis before it is answered: once, in order, and not without bound."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable
from gateway.payments.codec import decode_transaction
from gateway.quantapay.models import Transaction
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks import inbox as module
from gateway.webhooks.inbox import Inbox
from tests.plugins.payments import WEBHOOK_PAYMENT as PAYMENT
from tests.plugins.valkey import ValkeyServer


class Box(Inbox):
    """An inbox that counts what it had to refuse."""

    def __init__(self, url: str, *, patience: float = 20) -> None:
        self.refused = 0
        self.store = Store(
            Redis.from_url(url, socket_timeout=patience), clock=SystemClock(), metrics=Metrics(), deadline=patience
        )
        super().__init__(self.store, deadline=10, on_refused=self._refuse)

    def _refuse(self) -> None:
        self.refused += 1


@pytest.fixture
async def inbox(valkey: ValkeyServer) -> AsyncIterator[Box]:
    box = Box(valkey.url)
    yield box
    await box.store.close()


async def taken(inbox: Inbox) -> list[Transaction]:
    return [decode_transaction(taken.message) for taken in await inbox.queue.take(100)]


async def test_a_payment_is_kept_as_it_is(inbox: Box) -> None:
    await inbox.put(PAYMENT)
    assert await taken(inbox) == [PAYMENT]
    assert inbox.arrived.is_set()
    assert inbox.refused == 0


async def test_the_same_again_is_kept_once_however_often_it_comes(inbox: Box) -> None:
    await asyncio.gather(*(inbox.put(replace(PAYMENT, title=f"{n}")) for n in range(300)))
    assert (await inbox.queue.backlog()).waiting == 1
    [first] = await inbox.queue.take(10)
    await inbox.put(PAYMENT)
    assert (await inbox.queue.backlog()).waiting == 1
    await inbox.queue.finish(first)
    await inbox.put(PAYMENT)
    assert await taken(inbox) == [PAYMENT]


@pytest.mark.parametrize(
    "change",
    [{"id": "43"}, {"status": "refunded"}, {"fiat_amount": Decimal(1)}, {"order_id": "ORD-10"}, {"currency": "eur"}],
    ids=str,
)
async def test_what_differs_is_kept_beside_it(inbox: Box, change: dict[str, object]) -> None:
    await inbox.put(PAYMENT)
    await inbox.put(replace(PAYMENT, **change))
    assert (await inbox.queue.backlog()).waiting == 2


async def test_an_invented_payment_holds_up_no_genuine_one_of_the_same_id(inbox: Box) -> None:
    genuine = replace(PAYMENT, fiat_amount=Decimal(1))
    await inbox.put(PAYMENT)
    await inbox.put(genuine)
    assert await taken(inbox) == [PAYMENT, genuine]


async def test_texts_that_no_encoding_can_carry_are_kept(inbox: Box) -> None:
    odd = replace(PAYMENT, id="\ud800", order_id="a\udfff", title="\0")
    await inbox.put(odd)
    assert await taken(inbox) == [odd]


async def test_a_full_inbox_refuses_what_is_new(inbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    for number in range(2):
        await inbox.put(replace(PAYMENT, id=str(number)))
    inbox.arrived.clear()
    with pytest.raises(StorageUnavailable) as refused:
        await inbox.put(PAYMENT)
    assert (refused.value.retry_after or 0) > 0
    assert (inbox.refused, inbox.arrived.is_set()) == (1, False)
    assert (await inbox.queue.backlog()).waiting == 2


async def test_without_redis_it_is_told_that_something_was_refused(valkey_factory) -> None:
    server = valkey_factory()
    inbox = Box(server.url, patience=0.1)
    await inbox.store.start()
    server.kill()
    with pytest.raises(StorageUnavailable):
        await inbox.put(PAYMENT)
    assert (inbox.refused, inbox.arrived.is_set()) == (1, False)
    await inbox.store.close()


async def test_of_a_burst_only_a_few_are_under_way_at_once(inbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their own number would make them outlast the deadline of Redis."""
    write, under_way, most = inbox.store.write, 0, 0

    async def watched(*args):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await write(*args)
        finally:
            under_way -= 1

    monkeypatch.setattr(inbox.store, "write", watched)
    await asyncio.gather(*(inbox.put(replace(PAYMENT, id=str(number))) for number in range(100)))
    assert 1 < most <= module.AT_ONCE
    assert (await inbox.queue.backlog()).waiting == 100
