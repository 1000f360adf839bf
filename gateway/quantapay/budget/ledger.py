"""The budget's ledger in Redis: takes grants from it, and keeps it whole when Redis forgot some (`ledger.lua`)."""

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.quantapay.budget.share import LOGS, Counts, Grant, Share, limits
from gateway.quota import Quota
from gateway.store.batch import Batches
from gateway.store.client import RedisClient
from gateway.store.redis import Script, Store

LOOK_EVERY = 5.0
"""Seconds between two looks of a process that makes no calls."""
NEW_FOR = LOOK_EVERY + 1.0
"""Seconds after which every process has reported to a new generation."""
CLOCK_SLACK = 0.5
"""Seconds that Redis's clock may be ahead of what we expect: less than the second for which a grant counts too long."""
LONGEST_THROTTLE = 60.0
"""Seconds."""
MOST_REPORTED = 10_000
"""Own grants that a process reports, the newest. Of budgets beyond, Redis's loss of data can lose the older part."""
REPORTED_AT_ONCE = 1_000
"""In one command: a few milliseconds of Redis's time."""
MOST_AT_ONCE = 64
"""Asks that one script decides, in half a millisecond."""

_MICROSECONDS = 1_000_000
_FAR_FUTURE = 2**53 - 1
"""The last microsecond that Lua can tell from the next."""


@dataclass(slots=True)
class Ask:
    """What is asked of the ledger; with `depth` 0, only to look."""

    id: str
    """Of its own for every ask, without spaces: it names the grant, or a new generation."""
    depth: int = 0
    fits_share: bool = True
    """Whether this process might take it alone."""
    throttled: float = 0.0
    """Seconds for which this process knows that QuantaPay throttles."""

    def give_up(self) -> None:
        """Take nothing, should it be asked again."""
        self.depth = 0


class Answer(NamedTuple):
    """What the ledger says. Durations are seconds, and `sent` is when it was asked, by the monotonic clock."""

    wait: float
    """Until it may be granted; 0: it is."""
    generation: str
    new_for: float
    """For how long it is still new: until then some grants may be missing from `counts`."""
    throttled: float
    """For how long QuantaPay is spared by half."""
    counts: Counts
    """Grants in each log, this one too."""
    sent: float

    @classmethod
    def read(cls, reply: Sequence[int | bytes], *, sent: float) -> Iterator[Self]:
        """Read the script's reply, but for the time: an answer for each ask."""
        _, name, new_for, *numbers = reply
        generation = name.decode() if isinstance(name, bytes) else str(name)
        of_one = iter(map(int, numbers))
        for wait, throttled, total, reads, background in zip(of_one, of_one, of_one, of_one, of_one, strict=True):
            yield cls(
                wait=wait / _MICROSECONDS,
                generation=generation,
                new_for=int(new_for) / _MICROSECONDS,
                throttled=throttled / _MICROSECONDS,
                counts=(total, reads, background),
                sent=sent,
            )

    @property
    def asks_for_report(self) -> bool:
        """Whether nothing is granted until this process has reported its own grants."""
        return self.wait < 0


class Ledger:
    """One process's access to the ledger of an account. `share` holds the process's own grants.

    What is asked at the same time goes to Redis as one script, since most of what it does is the same for all asks.
    """

    def __init__(self, store: Store, *, quota: Quota, span: float, account: str, share: Share, clock: Clock) -> None:
        self._store = store
        durations = map(_microseconds, (span, NEW_FOR, LONGEST_THROTTLE))
        self._settings = json.dumps([*durations, *limits(quota.amount), *limits(halved(quota.amount))])
        self._share = share
        self._clock = clock
        self._script = Script.load("gateway.quantapay.budget", "ledger.lua")
        self._keys = [f"qpg:{{budget:{account}}}:{name}" for name in (*LOGS, "generation", "throttled")]
        self._batches = Batches(self._ask_for_all, most=MOST_AT_ONCE)
        self._last: tuple[float, int] | None = None
        """When the answer that was asked for last was asked for, and Redis's time (microseconds) in it."""
        self._reporting = asyncio.Lock()
        self._reported_to = ""
        """The generation that knows all grants of this process."""
        self._failures = 0
        self._failures_when_reported = 0

    @property
    def in_touch(self) -> bool:
        """Whether no ask failed since this process last reported its grants."""
        return self._failures == self._failures_when_reported

    async def ask(self, ask: Ask) -> Answer:
        """Ask, reporting first if need be, all within the deadline of the store.

        Raises `StorageUnavailable`, also if it was cut off after the grant was made: the same id may then be taken
        alone, as it counts once.
        """
        try:
            return await self._batches.ask(ask)
        except asyncio.CancelledError:
            ask.give_up()
            raise
        except StorageUnavailable:
            # Counted by each who asked, at the moment in which it may take a call alone: a report that came between
            # would know of the failure and not of the call.
            self._failures += 1
            raise

    async def _ask_for_all(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        return await self._store.run(lambda redis: self._settle(redis, asks))

    async def _settle(self, redis: RedisClient, asks: Sequence[Ask]) -> Sequence[Answer]:
        # Normally once; after a report twice. The deadline ends it if generations should change that fast.
        while (answers := await self._send(redis, asks))[0].asks_for_report:  # and so do the others
            generation = answers[0].generation
            async with self._reporting:  # one is enough for all who ask
                if not self.in_touch or self._reported_to != generation:
                    await self._report(redis, asks[0], generation)
        return answers

    async def _report(self, redis: RedisClient, ask: Ask, generation: str) -> None:
        failures = self._failures
        look = Ask(id=ask.id, throttled=ask.throttled)
        grants = self._share.newest(MOST_REPORTED)
        for start in range(0, len(grants), REPORTED_AT_ONCE):
            await self._send(redis, [look], grants[start : start + REPORTED_AT_ONCE])
        # If another generation began meanwhile, the next answer asks for a report again. And who failed meanwhile
        # may have taken a call alone that is not in this one.
        self._reported_to, self._failures_when_reported = generation, failures

    async def _send(self, redis: RedisClient, asks: Sequence[Ask], grants: Sequence[Grant] = ()) -> Sequence[Answer]:
        sent = self._clock.monotonic()
        args: list[str | int] = [
            self._settings,
            self._reported_to,
            int(self.in_touch),
            self._latest(sent),
            " ".join(f"{ask.id} {ask.depth} {ask.fits_share:d} {_microseconds(ask.throttled)}" for ask in asks),
        ]
        for grant in grants:
            args += (grant.depth, grant.id, _microseconds(max(0.0, sent - grant.at)))
        reply = await self._script(redis, self._keys, args)
        if self._last is None or sent >= self._last[0]:
            self._last = sent, reply[0]
        return list(Answer.read(reply, sent=sent))

    def _latest(self, sent: float) -> int:
        """Return what Redis's clock (microseconds) can show at most if nobody set it, by our monotonic one."""
        if self._last is None:
            return _FAR_FUTURE
        asked_at, time = self._last
        return time + _microseconds(sent - asked_at + CLOCK_SLACK)


def halved(amount: int) -> int:
    """Return what is left of a budget while QuantaPay throttles."""
    return max(1, amount // 2)


def _microseconds(seconds: float) -> int:
    return math.floor(seconds * _MICROSECONDS)
