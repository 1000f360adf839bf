"""How often a caller may ask: GCRA limits over all processes, in Redis or, without it, as a local share.

GCRA, the "generic cell rate algorithm", lets N requests through at once and then one each window/N. All it keeps
of a limit is the time at which it will be full again (TAT, "theoretical arrival time"). A request moves that time
ahead by window/N, and is refused if it would then lie further ahead than the window.

A decision is a value that carries its reasons; headers and metrics are printed from it.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, Self

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.quota import Quota
from gateway.store.batch import Batches
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import span

MICROSECONDS = 1_000_000
MOST_LOCAL_KEYS = 100_000
"""About 30 MB; beyond, the keys unused for longest are forgotten."""
MOST_AT_ONCE = 128
"""Requests that one script decides, in a quarter of a millisecond."""
MOST_REFUSALS = 10_000
"""About 10 MB; beyond, the oldest is forgotten, and Redis asked again."""
REMEMBERED = 1.0
"""Seconds for which a refusal is remembered: no longer, as a limit can be lifted in Redis."""
MOST_CACHED = 10_000
"""Texts that only depend on the configuration, made once."""


class Limit(NamedTuple):
    """One thing that a request is counted against."""

    kind: Literal["client", "ip"]
    policy: str
    """Its name in `RateLimit` headers: printable ASCII."""
    key: str
    """Its Redis key. Those of one request share a hash tag, so that one script can take them all in a cluster."""
    quota: Quota

    @property
    def hash_tag(self) -> str:
        """What says in which slot of a cluster the key lies."""
        return self.key.partition("{")[2].partition("}")[0]


@lru_cache(MOST_CACHED)
def client_limit(client_id: str, quota: Quota) -> Limit:
    """Return the limit over all requests of a client."""
    return Limit("client", policy=client_id, key=f"qpg:{{{client_id}}}:rate:client", quota=quota)


def ip_limit(client_id: str, subject: str, quota: Quota) -> Limit:
    """Return the limit over a client's requests from one address; `subject` is what `addresses.subject` says of it."""
    key = f"qpg:{{{client_id}}}:rate:ip:{subject}"
    return Limit("ip", policy=f"{client_id}-ip", key=key, quota=quota)


class LimitState(NamedTuple):
    """What a decision left of a limit."""

    limit: Limit
    remaining: int
    """Requests that would be let through now. Without Redis, by this process."""
    resets_after: float
    """Seconds until all of the quota is there again."""


class Decision(NamedTuple):
    """Whether a request may go on, and what is left of its limits."""

    allowed: bool
    states: tuple[LimitState, ...]
    store: Literal["redis", "local"]
    """Where it was decided: over all processes, or from this one's share."""
    retry_after: float = 0.0
    """Seconds until the same request would be let through, if nobody else asks; 0 if allowed."""
    refused_by: Limit | None = None
    """The first of the limits that were spent."""

    @property
    def retry_after_seconds(self) -> int:
        """What `Retry-After` says: whole seconds, rounded up, at least 1."""
        return max(1, math.ceil(self.retry_after))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return `RateLimit-Policy` and `RateLimit`, one item a limit, as ASGI takes them.

        See draft-ietf-httpapi-ratelimit-headers. Seconds are whole and rounded up.
        """
        if not self.states:
            return []
        policies = [_policy(state.limit) for state in self.states]
        left = [
            b"%b;r=%d;t=%d" % (_quoted(state.limit.policy), state.remaining, math.ceil(state.resets_after))
            for state in self.states
        ]
        return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(left))]

    def after(self, seconds: float) -> "Decision":
        """Return what the same refusal means that much later, if it still is one."""
        states = tuple(
            LimitState(state.limit, state.remaining, max(0.0, state.resets_after - seconds)) for state in self.states
        )
        return Decision(
            allowed=False,
            states=states,
            store=self.store,
            retry_after=self.retry_after - seconds,
            refused_by=self.refused_by,
        )


@lru_cache(MOST_CACHED)
def _policy(limit: Limit) -> bytes:
    return b"%b;q=%d;w=%d" % (_quoted(limit.policy), limit.quota.amount, limit.quota.window)


@lru_cache(MOST_CACHED)
def _quoted(text: str) -> bytes:
    """Write a structured-field string (RFC 9651 §3.3.3)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.encode()


class RateLimiter(Protocol):
    """Counts requests against limits."""

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Check all `limits`, then take one of each, or none: a refused request costs nothing."""


class RedisLimiter:
    """Limits over all processes, on Redis's clock; the local share while Redis is away (interface §7).

    Requests that come at the same time are decided by one script: alone each costs this process 200 µs, by two
    dozen 24. And a refusal is remembered for a second, so that a flood costs Redis nothing: GCRA would refuse the same
    again until its time has come.
    """

    def __init__(self, store: Store, local: "LocalLimiter", *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._local = local
        self._clock = clock
        self._metrics = metrics
        self._script = Script.load("gateway.access", "limits.lua")
        self._batches = Batches(self._ask, most=MOST_AT_ONCE)
        self._refusals: OrderedDict[tuple[Limit, ...], _Refusal] = OrderedDict()

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Decide by Redis, or within 100 ms without it; count the decision either way."""
        with span("limit") as asked:
            decision = self._remembered(limits) or await self._decide(limits)
            asked.set({"gateway.limit.allowed": decision.allowed, "gateway.limit.store": decision.store})
        outcome = "allowed" if decision.allowed else "refused"
        for limit in [decision.refused_by] if decision.refused_by else limits:
            self._metrics.rate_limit_decisions[limit.kind, outcome, decision.store].inc()
        return decision

    async def _decide(self, limits: Sequence[Limit]) -> Decision:
        if not limits:
            return Decision(allowed=True, states=(), store="redis")
        # The limits of one client lie in one slot of a cluster.
        group = limits[0].hash_tag if self._store.is_cluster else ""
        try:
            return await self._batches.ask(limits, group=group)
        except StorageUnavailable:
            return await self._local.take(limits)

    def _remembered(self, limits: Sequence[Limit]) -> Decision | None:
        refusal = self._refusals.get(tuple(limits)) if self._refusals else None
        if refusal is None:
            return None
        elapsed = self._clock.monotonic() - refusal.asked_at
        if elapsed < min(REMEMBERED, refusal.decision.retry_after):
            return refusal.decision.after(elapsed)
        del self._refusals[tuple(limits)]
        return None

    async def _ask(self, requests: Sequence[Sequence[Limit]]) -> Sequence[Decision]:
        """Have Redis decide about requests, each by its limits."""
        keys: dict[str, int] = {}
        numbers: list[int] = []
        for limits in requests:
            numbers.append(len(limits))
            for limit in limits:
                place = keys.setdefault(limit.key, len(keys) + 1)
                numbers += (place, limit.quota.amount, limit.quota.window * MICROSECONDS)
        args = [" ".join(map(str, numbers))]  # as one: redis-py takes microseconds for each
        asked_at = self._clock.monotonic()
        reply = iter(await self._store.run(lambda redis: self._script(redis, [*keys], args)))
        decisions = []
        for limits in requests:
            allowed = bool(next(reply))
            # Each limit's backlog comes as whole microseconds and a part in 1/amount microseconds.
            backlogs = [next(reply) * limit.quota.amount + next(reply) for limit in limits]
            paces = [_Pace.of(limit.quota) for limit in limits]
            decision = _decide(limits, paces, backlogs, allowed=allowed, store="redis")
            if not allowed:
                self._remember(limits, _Refusal(decision, asked_at))
            decisions.append(decision)
        return decisions

    def _remember(self, limits: Sequence[Limit], refusal: "_Refusal") -> None:
        self._refusals[tuple(limits)] = refusal
        if len(self._refusals) > MOST_REFUSALS:
            self._refusals.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What Redis refused, and when it was asked: it cannot let the same through before `retry_after` from then."""

    decision: Decision
    asked_at: float


class LocalLimiter:
    """One process's share of every limit, in memory: the limit ÷ the processes that `share` counts.

    The shares of all processes together never let through more than the limit; only where a limit has fewer
    requests than there are processes, each lets one through at once.
    """

    def __init__(self, clock: Clock, share: Callable[[], int], *, most_keys: int = MOST_LOCAL_KEYS) -> None:
        self._clock = clock
        self._share = share
        self._most_keys = most_keys
        self._tats: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By key: a limit's amount, and its TAT in 1/amount microseconds."""

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Decide at once; nothing is waited for."""
        processes = max(1, self._share())
        now = int(self._clock.monotonic() * MICROSECONDS)
        paces = [_Pace.of(limit.quota, processes) for limit in limits]
        backlogs = [self._backlog(limit, now, pace) for limit, pace in zip(limits, paces, strict=True)]
        allowed = all(pace.wait(backlog) == 0 for pace, backlog in zip(paces, backlogs, strict=True))
        if allowed:
            backlogs = [backlog + pace.interval for backlog, pace in zip(backlogs, paces, strict=True)]
            for limit, backlog in zip(limits, backlogs, strict=True):
                self._tats[limit.key] = (limit.quota.amount, now * limit.quota.amount + backlog)
                self._tats.move_to_end(limit.key)
            while len(self._tats) > self._most_keys:
                self._tats.popitem(last=False)
        return _decide(limits, paces, backlogs, allowed=allowed, store="local")

    def _backlog(self, limit: Limit, now: int, pace: "_Pace") -> int:
        """Return how far a limit's TAT lies ahead of `now` (microseconds), in 1/amount microseconds."""
        if limit.key not in self._tats:
            return 0
        amount, tat = self._tats[limit.key]
        if amount != limit.quota.amount:  # changed by a reload of the configuration
            tat = -(-tat * limit.quota.amount // amount)
        backlog = tat - now * limit.quota.amount
        if backlog > pace.span:
            # The window was longer before. Kept even if the request is refused, or callers would wait for the old.
            backlog = pace.span
            self._tats[limit.key] = (limit.quota.amount, now * limit.quota.amount + backlog)
        return max(backlog, 0)


class Unlimited:
    """Lets everything through: for tools and tests that are not about limits."""

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Allow."""
        return Decision(allowed=True, states=(), store="local")


@dataclass(frozen=True, slots=True)
class _Pace:
    """A limit in GCRA's terms. Its unit of time is 1/amount microseconds, in which all of it is whole."""

    second: int
    interval: int
    """What one request costs."""
    span: int
    """How far ahead of now the TAT may lie."""

    @classmethod
    @lru_cache(MOST_CACHED)
    def of(cls, quota: Quota, processes: int = 1) -> Self:
        """Slow a quota down to one process's share; at once it lets through ⌊amount ÷ processes⌋, at least one."""
        window = quota.window * MICROSECONDS
        interval = window * processes
        return cls(quota.amount * MICROSECONDS, interval, max(window * quota.amount, interval))

    def wait(self, backlog: int) -> float:
        """Return the seconds until one more request fits, 0 if it does now."""
        return max(0, backlog + self.interval - self.span) / self.second


def _decide(
    limits: Sequence[Limit],
    paces: Sequence[_Pace],
    backlogs: Sequence[int],
    *,
    allowed: bool,
    store: Literal["redis", "local"],
) -> Decision:
    """Say what GCRA's outcome means: `backlogs` are how far each TAT now lies ahead, in its pace's unit."""
    states = tuple(
        LimitState(limit, (pace.span - backlog) // pace.interval, backlog / pace.second)
        for limit, pace, backlog in zip(limits, paces, backlogs, strict=True)
    )
    if allowed:
        return Decision(allowed=True, states=states, store=store)
    waits = [pace.wait(backlog) for pace, backlog in zip(paces, backlogs, strict=True)]
    refused_by = next(limit for limit, wait in zip(limits, waits, strict=True) if wait)
    return Decision(allowed=False, states=states, store=store, retry_after=max(waits), refused_by=refused_by)
