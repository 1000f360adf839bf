"""How often a caller may ask: limits, and what was decided about a request that counts against them.

A decision is a value that carries its reasons; headers and metrics are printed from it. It is made over all processes
in Redis (`limits_redis.py`) or, without it, from this process's share (`limits_local.py`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from gateway.access.gcra import MICROSECONDS, Pace
from gateway.quota import Quota
from gateway.telemetry.spans import span

MOST_CLIENTS = 100_000
"""Whose limits are made once. More than there will be: of more in turn, each would be forgotten just before it is
needed. So many take 130 MB."""


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


class Limits:
    """What a request is counted against: all of it, or none. Requests with the same can only differ in who comes first.

    All that follows from them is computed when they are made, which for a client is once.
    """

    __slots__ = ("asked", "each", "id", "intervals", "paces", "per_second")

    def __init__(self, *each: Limit) -> None:
        self.each = each
        self.asked = [(limit.key, f"{limit.quota.amount},{limit.quota.window * MICROSECONDS}") for limit in each]
        """Of each its key, amount and window (microseconds), as `limits.lua` takes them."""
        self.id = " ".join([f"{key}={quota}" for key, quota in self.asked])
        """The same for the same limits."""
        self.paces = [Pace.of(limit.quota) for limit in each]
        self.intervals = [pace.interval for pace in self.paces]
        self.per_second = min([limit.quota.amount / limit.quota.window for limit in each], default=0.0)
        """How many more requests fit after a second, once they are spent."""

    @property
    def hash_tag(self) -> str:
        """What says in which slot of a cluster all of their keys lie."""
        return next((limit.hash_tag for limit in self.each), "")


@lru_cache(MOST_CLIENTS)
def client_limits(client_id: str, quota: Quota) -> Limits:
    """Return what a client's own servers are counted against."""
    return Limits(client_limit(client_id, quota))


def client_limit(client_id: str, quota: Quota) -> Limit:
    """Return the limit over all requests of a client."""
    return Limit("client", policy=client_id, key=f"qpg:{{{client_id}}}:rate:client", quota=quota)


def ip_limit(client_id: str, subject: str, quota: Quota) -> Limit:
    """Return the limit over a client's requests from one address; `subject` is what `addresses.subject` says of it."""
    key = f"qpg:{{{client_id}}}:rate:ip:{subject}"
    return Limit("ip", policy=f"{client_id}-ip", key=key, quota=quota)


class Decision(NamedTuple):
    """Whether a request may go on, and what is left of its limits.

    Every request has one and few are asked for more than whether it may, so what is left is told when it is asked for.
    """

    allowed: bool
    store: Literal["redis", "local"]
    """Where it was decided: over all processes, or from this one's share."""
    limits: Limits
    paces: Sequence[Pace]
    """At which each limit goes: without Redis, this process's share of it."""
    backlogs: Sequence[int]
    """Of each limit after it, in its pace's unit."""

    @property
    def refused_by(self) -> Limit | None:
        """The first of the limits that were spent."""
        if not self.allowed:
            for limit, pace, backlog in zip(self.limits.each, self.paces, self.backlogs, strict=True):
                if pace.wait(backlog):
                    return limit
        return None

    @property
    def retry_after(self) -> float:
        """Seconds until the same request would be let through, if nobody else asks; 0 if it was."""
        return 0.0 if self.allowed else max(map(Pace.wait, self.paces, self.backlogs))

    @property
    def retry_after_seconds(self) -> int:
        """What `Retry-After` says: whole seconds, rounded up, at least 1."""
        return max(1, math.ceil(self.retry_after))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return `RateLimit-Policy` and `RateLimit` of a decision about one limit, as ASGI takes them; [] about none.

        See draft-ietf-httpapi-ratelimit-headers. Seconds are whole and rounded up. `ValueError` about several: those
        that are told have one.
        """
        if not self.limits.each:
            return []
        [limit], [pace], [backlog] = self.limits.each, self.paces, self.backlogs
        name, policy = _named(limit.policy, limit.quota)
        left = b"%b;r=%d;t=%d" % (name, pace.remaining(backlog), -(-backlog // pace.second))
        return [(b"ratelimit-policy", policy), (b"ratelimit", left)]

    def after(self, seconds: float) -> "Decision":
        """Return what the same refusal means that much later, if it still is one."""
        elapsed = [int(seconds * pace.second) for pace in self.paces]
        backlogs = [max(0, backlog - less) for backlog, less in zip(self.backlogs, elapsed, strict=True)]
        return Decision(self.allowed, self.store, self.limits, self.paces, backlogs)


@lru_cache(MOST_CLIENTS)
def _named(policy: str, quota: Quota) -> tuple[bytes, bytes]:
    """Write a policy's name as a structured-field string (RFC 9651 §3.3.3), and the policy as an item."""
    escaped = policy.replace("\\", "\\\\").replace('"', '\\"')
    name = f'"{escaped}"'.encode()
    return name, b"%b;q=%d;w=%d" % (name, quota.amount, quota.window)


class RateLimiter(Protocol):
    """Counts requests against limits."""

    async def take(self, limits: Limits) -> Decision:
        """Check all `limits`, then take one of each, or none: a refused request costs nothing."""


class Unlimited:
    """Lets everything through: for tools and tests that are not about limits."""

    async def take(self, limits: Limits) -> Decision:
        """Allow."""
        return Decision(allowed=True, store="local", limits=Limits(), paces=(), backlogs=())


class TracedLimiter:
    """Decides in a span: apart, as even a span that nobody sees takes its time."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def take(self, limits: Limits) -> Decision:
        """Decide as `limiter` does."""
        with span("limit") as asked:
            decision = await self._limiter.take(limits)
            asked.set({"gateway.limit.allowed": decision.allowed, "gateway.limit.store": decision.store})
        return decision
