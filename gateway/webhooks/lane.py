"""A lane: what one process does to hand one subscriber its events.

A lane shares nothing with others but Redis, so a subscriber that is slow, or hangs, holds nobody else up. An event is
sent at least once: it leaves the queue when the subscriber has it, and whatever happens before, it comes back.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.clock import Clock
from gateway.config import Subscriber
from gateway.errors import StorageUnavailable
from gateway.store.queue import Backlog, Queue, Taken
from gateway.tasks import end
from gateway.telemetry.logs import frames_of
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Span, Tracer, root
from gateway.webhooks.schedule import Schedule
from gateway.webhooks.sender import GONE, Outcome, Result, Sender

log = structlog.get_logger()

PLACES: Final = 8
"""Attempts at once."""
POLL: Final = 1.0
"""Seconds between two looks at an empty queue, on average: processes must not look in step."""
COUNT_EVERY: Final = 5.0
"""Seconds between two counts of the backlog."""
SETTLE_AGAIN: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds to wait before Redis is told again what became of an attempt. All of them and a long attempt take less than
a lease."""


class Lane:
    """A task that takes events from a subscriber's queue, and one for each attempt."""

    def __init__(
        self,
        subscriber: Subscriber,
        *,
        queue: Queue,
        sender: Sender,
        schedule: Schedule,
        clock: Clock,
        metrics: Metrics,
        tracer: Tracer | None = None,
    ) -> None:
        self.subscriber = subscriber
        """As configured now; each attempt goes by it as it was when the attempt began."""
        self.backlog: Backlog | None = None
        """As last seen."""
        self._queue = queue
        self._sender = sender
        self._schedule = schedule
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._attempts: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._leaving = False
        self._count_at = clock.monotonic()
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take events."""
        self._metrics.name_subscribers([self.subscriber.id])
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look at the queue at once."""
        self._woken.set()

    def leave(self) -> None:
        """Take no more events, as the subscriber is configured no more; attempts under way go on."""
        self._stop()
        self._show(Backlog(waiting=0, age=0.0, dead=0))  # nobody counts it from now on: an alert must not last for ever

    @property
    def has_left(self) -> bool:
        """Whether nothing goes on here any more."""
        return not self._attempts and (self._task is None or self._task.done())

    async def close(self, *, grace: float) -> None:
        """Take no more events, and cut short what attempts are under way after `grace` seconds.

        What is cut short, another process makes again when its lease ends.
        """
        self._stop()
        running = {task for task in (self._task, *self._attempts) if task is not None}
        if running:
            await asyncio.wait(running, timeout=grace)
        await end(self._task)
        await asyncio.gather(*map(end, list(self._attempts)))

    def _stop(self) -> None:
        self._leaving = True
        self._woken.set()

    async def _run(self) -> None:
        while not self._leaving:
            self._woken.clear()
            try:
                await self._take()
                await self._count()
                self._fault = ""
            except StorageUnavailable:
                pass  # the store has told; the events wait
            except Exception as error:  # whatever it is, the next look may go well
                self._tell(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL * (0.5 + self._clock.random())):
                    await self._woken.wait()

    async def _take(self) -> None:
        """Begin an attempt with as many events as there are places free."""
        free = PLACES - len(self._attempts)
        if free == 0:
            return
        for taken in await self._queue.take(free):
            task = asyncio.create_task(self._attempt(taken))
            self._attempts.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._woken.set()  # there is a place free, and perhaps an event that waited for this one

    async def _attempt(self, taken: Taken) -> None:
        try:
            with root(self._tracer, "deliver", kind="producer") as traced:
                await self._hand_over(taken, traced)
        except StorageUnavailable:
            pass  # the event comes back when its lease ends
        except Exception as error:  # the lane goes on, and the event comes back
            self._tell(error)

    async def _hand_over(self, taken: Taken, traced: Span) -> None:
        subscriber = self.subscriber
        attempt = taken.attempts + 1
        traced.set({"gateway.subscriber": subscriber.id, "gateway.attempt": attempt})
        started = self._clock.monotonic()
        result = await self._send(subscriber, taken)
        milliseconds = round((self._clock.monotonic() - started) * 1000)
        self._metrics.webhook_deliveries.labels(subscriber=subscriber.id, outcome=result.outcome).inc()
        if result.outcome is not Outcome.DELIVERED:
            traced.fail(result.outcome.value)
        pause = self._pause(result, attempt)
        (log.info if result.outcome is Outcome.DELIVERED else log.warning)(
            "attempt to deliver an event",
            subscriber=subscriber.id,
            webhook_id=taken.id,
            attempt=attempt,
            outcome=result.outcome.value,
            error=result.error or None,
            ms=milliseconds,
        )
        await self._settle(taken, result, pause)
        if result.outcome is not Outcome.DELIVERED and pause is None:
            self._metrics.webhook_deliveries.labels(subscriber=subscriber.id, outcome="dead").inc()
            log.error(
                "event given up",
                subscriber=subscriber.id,
                webhook_id=taken.id,
                attempts=attempt,
                error=result.error,
                hint="the subscriber is gone for good: remove it from gateway.yaml" if result.status == GONE else None,
            )

    async def _send(self, subscriber: Subscriber, taken: Taken) -> Result:
        try:
            return await self._sender.send(subscriber, taken.id, taken.message)
        except Exception as error:  # a bug: what it strikes each time must end among the dead letters all the same
            self._tell(error)
            return Result(Outcome.UNREACHABLE, "internal error")

    def _pause(self, result: Result, attempts: int) -> float | None:
        """Return the seconds until the next attempt; None if there is none."""
        if result.outcome is Outcome.DELIVERED or result.status == GONE:
            return None
        return self._schedule.pause(attempts, asked=result.retry_after, chance=self._clock.random())

    async def _settle(self, taken: Taken, result: Result, pause: float | None) -> None:
        """Tell Redis what became of an attempt, some times if need be: an event that it still has is sent again."""
        for again in SETTLE_AGAIN:
            try:
                return await self._settle_once(taken, result, pause)
            except StorageUnavailable:
                await self._clock.sleep(again)
        return await self._settle_once(taken, result, pause)

    async def _settle_once(self, taken: Taken, result: Result, pause: float | None) -> None:
        if result.outcome is Outcome.DELIVERED:
            await self._queue.finish(taken)
        elif pause is not None:
            await self._queue.retry(taken, after=pause, error=result.error)
        else:
            await self._queue.bury(taken, error=result.error)

    async def _count(self) -> None:
        """Show the backlog, every few seconds."""
        now = self._clock.monotonic()
        if now < self._count_at:
            return
        self.backlog = await self._queue.backlog()
        self._count_at = now + COUNT_EVERY
        if not self._leaving:
            self._show(self.backlog)

    def _show(self, backlog: Backlog) -> None:
        name = self.subscriber.id
        self._metrics.webhook_backlog.labels(subscriber=name).set(backlog.waiting)
        self._metrics.webhook_backlog_age.labels(subscriber=name).set(backlog.age)
        self._metrics.webhook_dead_letters.labels(subscriber=name).set(backlog.dead)

    def _tell(self, error: Exception) -> None:
        """Tell of a bug, once until something else happens."""
        if self._fault != (fault := type(error).__name__):
            self._fault = fault
            log.error(
                "delivery of events interrupted", subscriber=self.subscriber.id, error=fault, frames=frames_of(error)
            )
