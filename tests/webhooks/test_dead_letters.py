"""Dead letters on a real Valkey."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock, utc
from gateway.store.queue import put
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.dead_letters import DeadLetter, DeadLetters
from gateway.webhooks.outbox import subscriber_queue
from tests.plugins.valkey import ValkeyServer


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[Store]:
    store = Store(Redis.from_url(valkey.url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
    yield store
    await store.close()


async def die(store: Store, message_id: str, *subscribers: str, order_id: str | None = "ORD-1") -> None:
    body = {"type": "payment.completed", "data": {"transaction": {"id": f"t-{message_id}", "order_id": order_id}}}
    queues = [subscriber_queue(store, name) for name in subscribers]
    await put(store, queues, message_id, json.dumps(body))
    for queue in queues:
        [taken] = await queue.take(1)
        await queue.bury(taken, error=f"HTTP 410 of {message_id}")


async def listed(letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in letters.list()]


async def test_a_letter_tells_what_it_was_and_why_it_died(store: Store) -> None:
    await die(store, "msg_1", "orders", order_id=None)
    [letter] = await listed(DeadLetters(store, ["orders"]))
    assert (letter.subscriber, letter.id, letter.type) == ("orders", "msg_1", "payment.completed")
    assert (letter.transaction, letter.order_id) == ("t-msg_1", None)
    assert (letter.attempts, letter.error) == (1, "HTTP 410 of msg_1")
    assert abs(utc(SystemClock().time()) - letter.given_up_at) < timedelta(minutes=1)


async def test_only_the_letters_of_the_named_subscribers_are_listed_each_by_subscriber(store: Store) -> None:
    await die(store, "msg_1", "orders", "mail")
    await die(store, "msg_2", "mail", "gone")
    found = [(letter.subscriber, letter.id) for letter in await listed(DeadLetters(store, ["mail", "orders", "none"]))]
    assert sorted(found) == [("mail", "msg_1"), ("mail", "msg_2"), ("orders", "msg_1")]
    assert await listed(DeadLetters(store, [])) == []


async def test_all_are_listed_once_though_others_die_meanwhile(store: Store) -> None:
    expected = [f"msg_{number:03}" for number in range(205)]
    for name in expected:
        await die(store, name, "orders")
    found = []
    async for letter in DeadLetters(store, ["orders"]).list():
        found.append(letter.id)
        if len(found) in {50, 150}:
            await die(store, f"msg_new_{len(found)}", "orders")
    assert sorted(found) == expected


async def test_a_replayed_event_is_due_for_every_subscriber_that_did_not_take_it(store: Store) -> None:
    await die(store, "msg_1", "orders", "mail")
    letters = DeadLetters(store, ["orders", "mail", "none"])
    assert await letters.replay("msg_1") == 2
    assert await letters.replay("msg_1") == 0
    assert await letters.replay("msg_9") == 0
    assert await listed(letters) == []
    for name in ("orders", "mail"):
        [taken] = await subscriber_queue(store, name).take(10)
        assert (taken.id, taken.attempts) == ("msg_1", 0)


async def test_a_discarded_event_is_gone_for_the_named_subscribers_alone(store: Store) -> None:
    await die(store, "msg_1", "orders", "mail")
    assert await DeadLetters(store, ["orders"]).discard("msg_1") == 1
    assert await DeadLetters(store, ["orders"]).discard("msg_1") == 0
    assert [letter.subscriber for letter in await listed(DeadLetters(store, ["orders", "mail"]))] == ["mail"]
