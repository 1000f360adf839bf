"""Which client an order id belongs to, so that no service pays for, or learns of, another's order (interface §3.5)."""

import hashlib

from gateway.errors import OrderIdTaken, StorageUnavailable
from gateway.store.redis import Script, Store

KEPT = 30 * 24 * 60 * 60
"""Seconds that an order id stays its client's after that client last used it: as long as a session made then."""

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
    """Order ids and the clients that used them first, over all processes."""

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
            raise StorageUnavailable(retry_after=1, outcome="not_sent") from None
        if owner != client_id.encode():
            raise OrderIdTaken
