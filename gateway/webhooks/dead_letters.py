"""Dead letters: events that a subscriber did not take in any attempt, and what an operator can do about them.

They are kept for 90 days. Everything here raises `StorageUnavailable`; doing it again is right then.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.clock import utc
from gateway.store.queue import Dead
from gateway.store.redis import Store
from gateway.webhooks.outbox import subscriber_queue

_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was given up, without most of what it tells. Its texts are QuantaPay's and the payer's."""

    subscriber: str
    id: str
    """Its `webhook-id`. The same event can be a dead letter of several subscribers."""
    type: str
    transaction: str
    order_id: str | None
    """As the payment names it."""
    given_up_at: datetime
    """UTC, whole seconds."""
    attempts: int
    error: str
    """Of the last attempt."""


class DeadLetters:
    """The dead letters of some subscribers."""

    def __init__(self, store: Store, subscribers: Sequence[str]) -> None:
        """Look after those of `subscribers`, which are ids."""
        self._queues = {subscriber: subscriber_queue(store, subscriber) for subscriber in subscribers}

    async def list(self) -> AsyncIterator[DeadLetter]:
        """Yield them subscriber by subscriber, the latest first, each once even if others die meanwhile."""
        for subscriber, queue in self._queues.items():
            seen: set[str] = set()
            offset = 0
            while page := await queue.dead(offset=offset, most=_PAGE):
                offset += len(page)
                for dead in page:
                    if dead.id not in seen:
                        seen.add(dead.id)
                        yield _letter(subscriber, dead)

    async def replay(self, message_id: str) -> int:
        """Have an event be delivered again, with all its attempts; return for how many subscribers it was dead."""
        return sum([await queue.revive(message_id) for queue in self._queues.values()])

    async def discard(self, message_id: str) -> int:
        """Remove an event for good; return for how many subscribers it was dead."""
        return sum([await queue.discard(message_id) for queue in self._queues.values()])


def _letter(subscriber: str, dead: Dead) -> DeadLetter:
    event = json.loads(dead.message)
    transaction = event["data"]["transaction"]
    return DeadLetter(
        subscriber=subscriber,
        id=dead.id,
        type=event["type"],
        transaction=transaction["id"],
        order_id=transaction["order_id"],
        given_up_at=utc(dead.died_at),
        attempts=dead.attempts,
        error=dead.error,
    )
