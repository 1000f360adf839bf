"""Limits over all processes: GCRA in Redis, or the local share without it."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.access.limits import Decision, Limits
from gateway.access.limits_local import LocalLimiter
from gateway.access.permits import Grant, Permits
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
EXACT = 1e-6
"""Seconds: Redis's clock goes by microseconds, and floats of seconds are less exact than the limits' integers."""


class _Refusal(NamedTuple):
    """What Redis refused, and when it was asked: it cannot let the same through before `retry_after` from then."""

    decision: Decision
    asked_at: float
    good_for: float
    """Seconds for which it is remembered, always less than `retry_after`."""


class RedisLimiter:
    """Limits over all processes, on Redis's clock; the local share while Redis is away (interface §7).

    Requests that come at the same time are decided by one script: alone each costs this process nine times what one
    of two dozen does. And a refusal is remembered for a second, so that a flood costs Redis nothing: GCRA would refuse
    the same again until its time has come. Busy clients take permits in advance (`permits.py`).
    """

    def __init__(self, store: Store, local: LocalLimiter, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._local = local
        self._clock = clock
        self._metrics = metrics
        self._script = Script.load("gateway.access", "limits.lua")
        self._batches: Batches[Limits, Decision] = Batches(self._ask, most=MOST_AT_ONCE)
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()
        self._permits = Permits(clock)

    async def take(self, limits: Limits) -> Decision:
        """Decide by Redis, or within 100 ms without it; count the decision either way."""
        decision = self._permits.take(limits) or self._remembered(limits) or await self._decide(limits)
        refused_by = decision.refused_by
        outcome = "refused" if refused_by else "allowed"
        for limit in [refused_by] if refused_by else limits.each:
            self._metrics.rate_limit_decisions[limit.kind, outcome, decision.store].inc()
        return decision

    async def _decide(self, limits: Limits) -> Decision:
        # The limits of one client lie in one slot of a cluster.
        group = limits.hash_tag if self._store.is_cluster else ""
        try:
            return await self._batches.ask(limits, group=group)
        except StorageUnavailable:
            return await self._local.take(limits)

    def _remembered(self, limits: Limits) -> Decision | None:
        refusal = self._refusals.get(limits.id) if self._refusals else None
        if refusal is None:
            return None
        elapsed = self._clock.monotonic() - refusal.asked_at
        if elapsed < refusal.good_for:
            return refusal.decision.after(elapsed)
        del self._refusals[limits.id]
        return None

    async def _ask(self, requests: Sequence[Limits]) -> Sequence[Decision]:
        """Decide about requests, by permits that came while these waited, or by Redis."""
        at_hand = [self._permits.take(limits) for limits in requests]
        missing = [limits for limits, decision in zip(requests, at_hand, strict=True) if decision is None]
        decided = iter(await self._ask_redis(missing) if missing else ())
        return [decision or next(decided) for decision in at_hand]

    async def _ask_redis(self, requests: Sequence[Limits]) -> Sequence[Decision]:
        """Have Redis decide about requests; those with the same limits are one question, and how often it is asked."""
        grants: dict[str, Grant] = {}
        asked = []
        for limits in requests:
            grant = grants.get(limits.id)
            if grant is None:
                grant = grants[limits.id] = self._permits.ask(limits)
            grant.waiting += 1
            asked.append(grant)
        keys, numbers = _question(grants.values())
        reply = iter(await self._store.run(lambda redis: self._script(redis, keys, [numbers])))
        for grant in grants.values():
            grant.taken = next(reply)
            # Each limit's backlog comes as whole microseconds and a part in 1/amount microseconds.
            grant.backlogs = [next(reply) * limit.quota.amount + next(reply) for limit in grant.limits.each]
        decided = [grant.tell() for grant in asked]
        for grant in grants.values():
            if grant.taken < grant.waiting:
                self._remember(grant.tell(), grant.asked_at)
            self._permits.keep(grant)
        return decided

    def _remember(self, refusal: Decision, asked_at: float) -> None:
        good_for = min(REMEMBERED, refusal.retry_after - EXACT)
        self._refusals[refusal.limits.id] = _Refusal(refusal, asked_at, good_for)
        if len(self._refusals) > MOST_REFUSALS:
            self._refusals.popitem(last=False)


def _question(grants: Iterable[Grant]) -> tuple[list[str], str]:
    """Return the keys and the numbers of the script; these as one text, as redis-py takes microseconds for each."""
    places: dict[str, int] = {}
    numbers: list[str] = []
    for grant in grants:
        numbers.append(f"{grant.waiting},{grant.in_advance},{len(grant.limits.asked)}")
        for key, amount_and_window in grant.limits.asked:
            numbers.append(f"{places.setdefault(key, len(places) + 1)},{amount_and_window}")
    return list(places), f"[{','.join(numbers)}]"
