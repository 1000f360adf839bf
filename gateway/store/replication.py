"""Writes that a fail-over must not lose: sent with `WAIT 1` behind them, where Redis has replicas.

Redis answers before its replicas know of a write. A primary that dies then takes along what it had answered for.
`WAIT`, which covers all that was done on its connection, answers once a replica has it too.

Whether there are replicas each primary says itself (`ROLE`): a `WAIT` for replicas that nobody set up would only
run out. A primary that says it has lost all of them may be one that was cut off and is about to be replaced, and
what it took in would go with it. So that is believed after a minute; until then nothing is written to it.

This makes a loss unlikely, not impossible. Two cases stay open. A gateway may start beside a primary that is cut
off already: `min-replicas-to-write 1` on the server closes that. And the replica that is promoted may not be the
one that had the write: of those they can reach Sentinel and Cluster choose the one that has most, but `SENTINEL
FAILOVER` on a healthy primary lets the other replicas acknowledge its writes for another moment.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from redis import exceptions
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline

from gateway.clock import Clock
from gateway.store.client import RedisClient

log = structlog.get_logger()

Command: TypeAlias = Sequence[str | bytes | int]

NEEDED_FOR = 60.0
"""Seconds after it was last seen with a replica for which a primary that has none is not written to."""


class NotReplicated(Exception):
    """No replica had the write in time, or there is none just now. The primary may have carried it out."""


@dataclass(slots=True)
class _Primary:
    """What a primary last said of itself."""

    replicas: int = 0
    needs_one_until: float = -math.inf
    """On the monotonic clock."""


class Replication:
    """What is known of each primary's replicas, and how a write is sent to one that has some."""

    def __init__(self, clock: Clock, *, wait: float) -> None:
        """Let `WAIT` take up to `wait` seconds."""
        self._clock = clock
        self._wait = wait
        self._primaries: dict[str, _Primary] = {}
        """By a cluster node's name. Outside of a cluster there is one, named "", whichever server it is just now."""
        self._succeeds = True

    async def look(self, redis: RedisClient) -> None:
        """Ask every primary for its replicas. Raises what redis-py raises."""
        if isinstance(redis, RedisCluster):
            await redis.initialize()
            for node in redis.get_primaries():
                await self._look_at(redis, node)
        else:
            await self._look_at(redis, None)

    @property
    def missing(self) -> bool:
        """Whether a primary that had replicas has none now. It may have been replaced, and not know yet."""
        return any(map(self._misses_replicas, self._primaries.values()))

    async def send(self, redis: RedisClient, key: str, command: Command) -> Any:  # noqa: ANN401 - a reply of Redis
        """Send a command whose keys lie in the slot of `key`, and return its reply.

        It takes one round trip, and where the primary has replicas, until one of them has the effect as well.
        Raises `NotReplicated` if none has it in time, and else what redis-py raises.
        """
        try:
            reply = await self._route(redis, key, command)
        except NotReplicated:
            if self._succeeds:
                log.warning("redis replicas missing or late, refusing writes that must last")
            self._succeeds = False
            raise
        if not self._succeeds:
            log.info("redis replicas are back")
        self._succeeds = True
        return reply

    async def _route(self, redis: RedisClient, key: str, command: Command) -> Any:  # noqa: ANN401 - a reply of Redis
        """Send a command to the server that has `key`."""
        if not isinstance(redis, RedisCluster):
            return await self._send(redis, None, command)
        await redis.initialize()
        try:
            return await self._send(redis, redis.get_node_from_key(key), command)
        except exceptions.AskError as redirect:
            # Slots move while a cluster is reshaped. The node named has this one: from now on (MOVED), or this once.
            if isinstance(redirect, exceptions.MovedError):
                await redis.nodes_manager.move_slot(redirect)
            node = redis.get_node(redirect.host, redirect.port)
            if node is None:
                raise
            return await self._send(redis, node, command, asking=True)

    async def _send(
        self, redis: RedisClient, node: ClusterNode | None, command: Command, *, asking: bool = False
    ) -> Any:  # noqa: ANN401 - a reply of Redis
        primary = self._primaries.get(_name(node)) or await self._look_at(redis, node)
        if self._misses_replicas(primary):
            raise NotReplicated
        replicated = primary.replicas > 0
        if not (replicated or asking or node):
            return await redis.execute_command(*command)
        before: list[Command] = [["ASKING"]] if asking else []
        behind: list[Command] = [["WAIT", 1, math.ceil(self._wait * 1000)]] if replicated else []
        try:
            # The server's own time-out would do, but it keeps that only to a tenth of a second.
            async with asyncio.timeout(self._wait if replicated else None):
                replies = await _on_one_connection(redis, node, [*before, command, *behind])
        except TimeoutError:
            raise NotReplicated from None
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if behind and replies[-1] < 1:
            raise NotReplicated
        return replies[len(before)]

    def _misses_replicas(self, primary: _Primary) -> bool:
        return not primary.replicas and self._clock.monotonic() < primary.needs_one_until

    async def _look_at(self, redis: RedisClient, node: ClusterNode | None) -> _Primary:
        role, _, replicas, *_ = await redis.execute_command("ROLE", **_to(node))
        primary = self._primaries.setdefault(_name(node), _Primary())
        # One that was demoted refuses writes by itself.
        if role == b"master":
            primary.replicas = len(replicas)
            if replicas:
                primary.needs_one_until = self._clock.monotonic() + NEEDED_FOR
        return primary


def _name(node: ClusterNode | None) -> str:
    return node.name if node else ""


def _to(node: ClusterNode | None) -> dict[str, Any]:
    """Return the option that sends a command to this node of a cluster."""
    return {"target_nodes": node} if node else {}


async def _on_one_connection(redis: RedisClient, node: ClusterNode | None, commands: Sequence[Command]) -> list[Any]:
    """Send commands together and return their replies, an error reply as the exception that stands for it."""
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **_to(node))
    if isinstance(pipeline, ClusterPipeline):
        # A redirected command alone would leave its WAIT behind, which then answers for nothing.
        return await pipeline.execute(raise_on_error=False, allow_redirections=False)
    return await pipeline.execute(raise_on_error=False)
