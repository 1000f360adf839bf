"""Whose an order is, and which checkout session it has (interface §3.5)."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.errors import IdempotencyInProgress, OrderConflict, OrderIdTaken, StorageUnavailable
from gateway.store.claims import RETRY_AFTER, Claims, Held, Ownership, Stored
from gateway.store.redis import Script, Store

KEPT = 30 * 24 * 60 * 60
"""Seconds that an order id stays its client's after that client last used it: as long as a session made then."""
EARLIER = 60
"""Seconds that an order forgets its session before that ends, besides the hold of the claim it was made under."""

_TAKE = Script(
    """
    -- Returns whose the key is: its first user's. For ARGV[1] that is from now on ARGV[2] more milliseconds.
    local owner = redis.call("GET", KEYS[1]) or ARGV[1]
    if owner == ARGV[1] then
      redis.call("SET", KEYS[1], owner, "PX", ARGV[2])
    end
    return owner
    """
)


class Orders:
    """Order ids and the clients that used them first, so that no service pays for, or learns of, another's order."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claim(self, client_id: str, order_id: str) -> None:
        """Take `order_id` for a client, or find that it has it already.

        Ids are compared byte for byte, as QuantaPay does. Raises `OrderIdTaken` if it is another client's, and
        `StorageUnavailable` with `outcome: not_sent` if Redis cannot say; the id may be this client's then.
        """
        # Order ids are other people's data, of any length: their digest names the key.
        key = f"qpg:order:{hashlib.sha256(order_id.encode()).hexdigest()[:32]}"
        try:
            owner = await self._store.write(_TAKE, [key], [client_id, KEPT * 1000])
        except StorageUnavailable:
            raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="not_sent") from None
        if owner != client_id.encode():
            raise OrderIdTaken


@dataclass(frozen=True, slots=True)
class Taken:
    """The order has its session."""

    session_id: str
    same: bool
    """Whether the session asks for the same as this request."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Another request is making the order's session."""

    same: bool
    """Whether that request asks for the same as this one."""


class OrderClaim:
    """The right to make an order's session, made only by `OrderSessions.claim`. It ends by itself."""

    def __init__(self, ownership: Ownership[str]) -> None:
        self._ownership = ownership

    async def complete(self, session_id: str) -> str:
        """Make `session_id` the order's session; return the id that may be shown: this one, or another owner's.

        The session must be stored already. Raises, all with `outcome: unknown`, and then it must not be shown:

        - `StorageUnavailable` if Redis failed (it may be the order's: asking again then finds it), or if the claim
          was lost and nobody else has the order;
        - `IdempotencyInProgress` if the claim was lost and another owner is at it;
        - `OrderConflict` if the claim was lost to a request for another price or currency.
        """
        fingerprint = self._ownership.fingerprint
        match await self._ownership.complete(session_id):
            case None:
                raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="unknown")
            case other if other.fingerprint != fingerprint:
                raise OrderConflict(outcome="unknown")
            case Held():
                raise IdempotencyInProgress(
                    "A request for this order is under way.", retry_after=RETRY_AFTER, outcome="unknown"
                )
            case Stored(result=shown):
                return shown

    async def release(self) -> None:
        """Let another request make the session, if this claim still holds. Without Redis it ends by itself."""
        with suppress(StorageUnavailable):
            await self._ownership.release()


class OrderSessions:
    """The one session of each order that was made with a publishable key."""

    def __init__(self, store: Store, *, clock: Clock, hold: float) -> None:
        """`hold`: seconds that a claim lives. It must outlast whatever its owner does, deadline and all."""
        # A session is stored under its order's claim, so before the order names it, and by at most the hold.
        self._claims = Claims(
            store,
            prefix="qpg:order-session",
            hold=hold,
            kept=KEPT - hold - EARLIER,
            encode=str,
            decode=_session_id,
            clock=clock,
        )

    async def claim(self, client_id: str, order_id: str, fingerprint: str) -> OrderClaim | Taken | UnderWay:
        """Claim the making of an order's session, or find the one that it has, or that another request makes it.

        `fingerprint` is a hex digest of the price and the currency asked for. Raises `StorageUnavailable` with
        `outcome: not_sent` if Redis cannot say.
        """
        match await self._claims.claim(client_id, order_id, fingerprint):
            case Ownership() as ownership:
                return OrderClaim(ownership)
            case Held() as held:
                return UnderWay(same=held.fingerprint == fingerprint)
            case Stored() as stored:
                return Taken(stored.result, same=stored.fingerprint == fingerprint)


def _session_id(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise ValueError("not a session's id")
    return text
