"""Limits over all processes: GCRA in Redis, or the local share without it."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from operator import add
from typing import NamedTuple

from gateway.access.gcra import MICROSECONDS, Pace
from gateway.access.limits import Decision, Limit, Limits
from gateway.access.limits_local import LocalLimiter
from gateway.access.permits import Permits
from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.store.batch import Batches
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics

MOST_AT_ONCE = 128
"""Requests that one script decides, in a quarter of a millisecond if all have the same limits, else in some."""
MOST_REFUSALS = 10_000
"""About 10 MB; beyond, the oldest is forgotten, and Redis asked again."""
REMEMBERED = 1.0
"""Seconds for which a refusal is remembered: no longer, as a limit can be lifted in Redis."""


class _Refusal(NamedTuple):
    """What Redis refused, and when it was asked: it cannot let the same through before `retry_after` from then."""

    decision: Decision
    asked_at: float
    good_for: float


class RedisLimiter:
    """Limits over all processes, on Redis's clock; the local share while Redis is away (interface §7).

    Requests that come at the same time are decided by one script: alone each costs this process 200 µs, by two
    dozen 24. And a refusal is remembered for a second, so that a flood costs Redis nothing: GCRA would refuse the same
    again until its time has come. Busy clients take permits in advance (`permits.py`).
    """

    def __init__(self, store: Store, local: LocalLimiter, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._local = local
        self._clock = clock
        self._metrics = metrics
        self._script = Script.load("gateway.access", "limits.lua")
        self._batches: Batches[Limits, Decision] = Batches(self._ask, most=MOST_AT_ONCE)
        self._refusals: OrderedDict[Limits, _Refusal] = OrderedDict()
        self._permits = Permits(clock)

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Decide by Redis, or within 100 ms without it; count the decision either way."""
        limits = tuple(limits)
        decision = self._permits.take(limits) or self._remembered(limits) or await self._decide(limits)
        refused_by = decision.refused_by
        outcome = "refused" if refused_by else "allowed"
        for limit in [refused_by] if refused_by else limits:
            self._metrics.rate_limit_decisions[limit.kind, outcome, decision.store].inc()
        return decision

    async def _decide(self, limits: Limits) -> Decision:
        if not limits:
            return Decision(allowed=True, store="redis", limits=(), paces=(), backlogs=())
        # The limits of one client lie in one slot of a cluster.
        group = limits[0].hash_tag if self._store.is_cluster else ""
        try:
            return await self._batches.ask(limits, group=group)
        except StorageUnavailable:
            return await self._local.take(limits)

    def _remembered(self, limits: Limits) -> Decision | None:
        refusal = self._refusals.get(limits) if self._refusals else None
        if refusal is None:
            return None
        elapsed = self._clock.monotonic() - refusal.asked_at
        if elapsed < refusal.good_for:
            return refusal.decision.after(elapsed)
        del self._refusals[limits]
        return None

    async def _ask(self, requests: Sequence[Limits]) -> Sequence[Decision]:
        """Decide about requests, by permits that came while these waited, or by Redis."""
        at_hand = [self._permits.take(limits) for limits in requests]
        missing = [limits for limits, decision in zip(requests, at_hand, strict=True) if decision is None]
        decided = iter(await self._ask_redis(missing) if missing else ())
        return [decision or next(decided) for decision in at_hand]

    async def _ask_redis(self, requests: Sequence[Limits]) -> Sequence[Decision]:
        """Have Redis decide about requests; those with the same limits are one question, and how often it is asked."""
        counts = Counter(requests)
        keys: dict[str, int] = {}
        numbers: list[str] = []
        for limits, count in counts.items():
            numbers.append(f"{count},{self._permits.wanted(limits)},{len(limits)}")
            for limit in limits:
                place, (amount, window) = keys.setdefault(limit.key, len(keys) + 1), limit.quota
                numbers.append(f"{place},{amount},{window * MICROSECONDS}")
        asked_at = self._clock.monotonic()
        args = [f"[{','.join(numbers)}]"]  # as one: redis-py takes microseconds for each
        reply = iter(await self._store.run(lambda redis: self._script(redis, [*keys], args)))
        decided: dict[Limits, Iterator[Decision]] = {}
        for limits, count in counts.items():
            taken = next(reply)
            # Each limit's backlog comes as whole microseconds and a part in 1/amount microseconds.
            backlogs = [next(reply) * limit.quota.amount + next(reply) for limit in limits]
            decisions = _decisions(limits, backlogs, taken=taken)
            answers = [next(decisions) for _ in range(count)]
            if taken < count:
                self._remember(limits, answers[-1], asked_at)
            self._permits.keep(limits, decisions, size=max(0, taken - count), taken_at=asked_at)
            decided[limits] = iter(answers)
        return [next(decided[limits]) for limits in requests]

    def _remember(self, limits: Limits, refusal: Decision, asked_at: float) -> None:
        self._refusals[limits] = _Refusal(refusal, asked_at, good_for=min(REMEMBERED, refusal.retry_after))
        if len(self._refusals) > MOST_REFUSALS:
            self._refusals.popitem(last=False)


def _decisions(limits: Limits, backlogs: Sequence[int], *, taken: int) -> Iterator[Decision]:
    """Yield what requests with the same limits are told, of which the first were taken.

    `backlogs`: how far each TAT lay ahead before them, in its pace's unit.
    """
    paces = [Pace.of(limit.quota) for limit in limits]
    intervals = [pace.interval for pace in paces]
    for _ in range(taken):
        backlogs = list(map(add, backlogs, intervals))
        yield Decision(True, "redis", limits, paces, backlogs)
    while True:
        yield Decision(False, "redis", limits, paces, backlogs)
