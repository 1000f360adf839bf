"""Processes that do nothing but deliver events, in a hurry: short leases, short delays, many attempts.

They are forked from one that has all modules, as starting Python takes longer than any of them lives:
`python -m tests.plugins.chaos_deliverer <redis URL> <subscriber's URL> <secret>` reads `start`, and answers with a
process id, or `kill` and a process id. None of them outlives its standard input.
"""

import asyncio
import logging
import os
import signal
import sys

import structlog
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.config import Subscriber
from gateway.store.client import connect
from gateway.store.queue import Queue
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.deliver import Deliveries
from gateway.webhooks.schedule import Schedule
from gateway.webhooks.sender import Sender

NAME = "chaos"
LEASE = 1.2
TIMEOUT = 0.5
REDIS_DEADLINE = 1.0
"""A busy machine is no outage; one that is gone is noticed at once all the same."""
DELAYS = (0.05, 0.1, 0.2, *[0.3] * 200)
"""So many that none is ever given up."""


def queue_of(store: Store, name: str = NAME) -> Queue:
    """Return the queue of a subscriber, with a short lease."""
    return Queue(store, f"subscriber:{name}", lease=LEASE)


def store_at(url: str) -> Store:
    """Return a store over the Redis at a URL; it is still to be started."""
    return Store(connect(url, deadline=REDIS_DEADLINE), clock=SystemClock(), metrics=Metrics(), deadline=REDIS_DEADLINE)


async def deliver(redis_url: str, subscriber_url: str, secret: str) -> None:
    """Deliver until killed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    subscriber = Subscriber(id=NAME, url=subscriber_url, secret=(SecretStr(secret),))
    store, clock = store_at(redis_url), SystemClock()
    await store.start()
    deliveries = Deliveries(
        store,
        subscribers=lambda: [subscriber],
        clock=clock,
        metrics=Metrics(),
        sender=Sender(clock=clock, timeout=TIMEOUT),
        schedule=Schedule(delays=DELAYS),
        queue=queue_of,
    )
    await deliveries.start()
    await asyncio.Event().wait()


def main(*arguments: str) -> None:
    """Start and kill as told."""
    children: set[int] = set()

    def kill(child: int) -> None:
        children.remove(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    for line in sys.stdin:
        verb, _, number = line.strip().partition(" ")
        child = int(number) if verb == "kill" else os.fork()
        if child == 0:
            asyncio.run(deliver(*arguments))
        if verb == "kill":
            kill(child)
        else:
            children.add(child)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    for child in list(children):
        kill(child)


if __name__ == "__main__":
    main(*sys.argv[1:])
