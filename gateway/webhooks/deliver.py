"""Delivery: every subscriber gets its payment events, signed, at least once (interface §3.8).

Each process has a lane for each subscriber (`lane.py`). All take from the same queues in Redis, which hand an event to
one of them at a time and keep the order of a session's events while that is wise (`gateway.store.queue`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway.clock import Clock
from gateway.config import Subscriber
from gateway.store.queue import Backlog, Queue
from gateway.store.redis import Store
from gateway.tasks import end
from gateway.telemetry.logs import frames_of
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Tracer
from gateway.webhooks.lane import Lane
from gateway.webhooks.outbox import subscriber_queue
from gateway.webhooks.schedule import Schedule
from gateway.webhooks.sender import Sender

log = structlog.get_logger()

FOLLOW_EVERY: Final = 1.0
"""Seconds between two looks at which subscribers are configured."""
GRACE: Final = 1.0
"""Seconds that attempts under way have to end when this process does. Most do; the others are made again by another
process when their lease ends, and the subscriber knows the event by its `webhook-id`."""


class Deliveries:
    """The lanes of this process, one for each configured subscriber."""

    def __init__(
        self,
        store: Store,
        *,
        subscribers: Callable[[], Sequence[Subscriber]],
        clock: Clock,
        metrics: Metrics,
        tracer: Tracer | None = None,
        sender: Sender | None = None,
        schedule: Schedule | None = None,
        queue: Callable[[Store, str], Queue] = subscriber_queue,
    ) -> None:
        """Deliver to those that `subscribers` returns, which is asked every second.

        `queue` makes the queue of one, by its id. A `sender` that is handed in is closed with these deliveries.
        """
        self._store = store
        self._subscribers = subscribers
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._sender = sender or Sender(clock=clock)
        self._schedule = schedule or Schedule()
        self._queue = queue
        self._lanes: dict[str, Lane] = {}
        self._leaving: list[Lane] = []
        """Of subscribers that are configured no more, while attempts are under way."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Take no more events, let attempts under way end for a second, and cut short those that do not."""
        await end(self._task)
        self._task = None
        await asyncio.gather(*(lane.close(grace=GRACE) for lane in (*self._lanes.values(), *self._leaving)))
        self._lanes.clear()
        self._leaving.clear()
        await self._sender.close()

    def wake(self, subscriber_id: str) -> None:
        """Look at once at the queue of a subscriber that has a new event. Harmless for one that is not known."""
        if lane := self._lanes.get(subscriber_id):
            lane.wake()

    @property
    def backlogs(self) -> Mapping[str, Backlog]:
        """How far behind each subscriber is, by its id, as last seen; without those not counted yet."""
        return {name: lane.backlog for name, lane in self._lanes.items() if lane.backlog is not None}

    async def _run(self) -> None:
        while True:
            try:
                self._follow(self._subscribers())
            except Exception as error:  # whatever it is, the lanes there are go on
                log.error("subscribers not followed", error=type(error).__name__, frames=frames_of(error))  # noqa: TRY400 - the text stays out
            await self._clock.sleep(FOLLOW_EVERY)

    def _follow(self, subscribers: Sequence[Subscriber]) -> None:
        """Have a lane for each of `subscribers`, as it is configured now, and for no other.

        The events of one that is removed stay in its queue, for when it comes back.
        """
        self._leaving = [lane for lane in self._leaving if not lane.has_left]
        for name in self._lanes.keys() - {subscriber.id for subscriber in subscribers}:
            lane = self._lanes.pop(name)
            lane.leave()
            self._leaving.append(lane)
        for subscriber in subscribers:
            if subscriber.id in self._lanes:
                self._lanes[subscriber.id].subscriber = subscriber
            else:
                self._lanes[subscriber.id] = self._open(subscriber)

    def _open(self, subscriber: Subscriber) -> Lane:
        lane = Lane(
            subscriber,
            queue=self._queue(self._store, subscriber.id),
            sender=self._sender,
            schedule=self._schedule,
            clock=self._clock,
            metrics=self._metrics,
            tracer=self._tracer,
        )
        lane.start()
        return lane
