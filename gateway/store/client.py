"""redis-py's clients as we want them: no retries, short time-outs, and the same whatever Redis is behind them.

How long a command may take is for whoever sends it to say (`Store`): redis-py starts a task for each write and a timer
for each reply to keep a time-out of its own, which is a third of what its client needs for a command. Only a cluster's
client, which asks several servers in turn, keeps one.
"""

from typing import Any, TypeAlias

from pydantic import SecretStr
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.store.address import Address

RedisClient: TypeAlias = Redis | RedisCluster

DEADLINE = 0.1
"""Seconds that a request may wait for Redis (interface §7), and that a connection may take to be made."""
MOST_CONNECTIONS = 64
"""To one server."""


def connect(url: SecretStr | str, *, deadline: float = DEADLINE) -> RedisClient:
    """Make a client for `redis://`, `rediss://`, `unix://`, `redis+cluster://` or `redis+sentinel://`.

    `deadline`: seconds that a connection may take to be made, and that a cluster's node or a sentinel has for a reply.
    Nothing is sent until the first command. Raises `ValueError`, without the URL in it, if it cannot be read. The
    client never retries: redis-py's default waits 3.3 s on a dead server.
    """
    address = Address.parse(url)
    sockets: dict[str, Any] = {
        "socket_timeout": deadline,
        "socket_connect_timeout": deadline,
        "retry": Retry(NoBackoff(), 0),
        # RESP2: one round trip less to connect, and no server notices that would stretch our timeouts.
        "protocol": 2,
        "driver_info": None,  # else a connection begins with two more commands, which an ACL would have to allow
    }
    options: dict[str, Any] = {
        **sockets,
        "username": address.username,
        "password": address.password.get_secret_value() if address.password else None,
        "max_connections": MOST_CONNECTIONS,
    }
    if address.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        # The configured names stay the way in: the addresses behind them change when a cluster is restarted.
        return RedisCluster(startup_nodes=nodes, dynamic_startup_nodes=False, **options)
    options["db"] = address.db
    options["socket_timeout"] = None  # see above
    if address.scheme == "redis+sentinel":
        login = {name: address.options.get(f"sentinel_{name}") for name in ("username", "password")}
        sentinels = Sentinel(address.hosts, sentinel_kwargs={**sockets, **login}, **options)  # type: ignore[no-untyped-call]  # redis-py has no types here
        primary: Redis = sentinels.master_for(address.service)
        return primary
    if address.scheme == "unix":
        return Redis.from_pool(ConnectionPool(UnixDomainSocketConnection, path=address.path, **options))
    [(host, port)] = address.hosts
    kind = SSLConnection if address.scheme == "rediss" else Connection
    options.update(address.options)
    return Redis.from_pool(ConnectionPool(kind, host=host, port=port, **options))
