"""How often a caller may ask: limits, and what was decided about a request that counts against them.

A decision is a value that carries its reasons; headers and metrics are printed from it. It is made over all processes
in Redis (`limits_redis.py`) or, without it, from this process's share (`limits_local.py`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, TypeAlias

from gateway.quota import Quota
from gateway.telemetry.spans import span

MOST_CACHED = 10_000
"""Texts and numbers that only depend on the configuration, made once."""


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


Limits: TypeAlias = tuple[Limit, ...]
"""Those of a request. Requests with the same ones can only differ in who comes first."""


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


class Unlimited:
    """Lets everything through: for tools and tests that are not about limits."""

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Allow."""
        return Decision(allowed=True, states=(), store="local")


class TracedLimiter:
    """Decides in a span: apart, as even a span that nobody sees takes its time."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def take(self, limits: Sequence[Limit]) -> Decision:
        """Decide as `limiter` does."""
        with span("limit") as asked:
            decision = await self._limiter.take(limits)
            asked.set({"gateway.limit.allowed": decision.allowed, "gateway.limit.store": decision.store})
        return decision
