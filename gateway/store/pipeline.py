"""One Redis server, asked over redis-py's connections; commands that come at the same time are sent together."""

import asyncio
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.store.batch import Batches

MOST_COMMANDS = 64
"""In one message."""


class PlainRedis(Redis):
    """redis-py's client, each of whose commands is one message and its reply.

    It uses redis-py's connections but not the way in which its client sends, with retries, records and a task for each
    write, as that is half as much again. It waits for a reply as long as it takes: who asks has to end that by
    cancelling it.
    """

    def __init__(self, redis: Redis) -> None:
        """Use the connections of `redis`."""
        super().__init__(connection_pool=redis.connection_pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own
        """Send a command, and return what redis-py makes of its reply."""
        if options:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py has no types here
        reply = await self._ask(args)
        if isinstance(reply, Exception):
            raise reply
        # Here, where all replies are read and a failure is nobody else's.
        read = self.response_callbacks.get(args[0])
        return reply if read is None else read(reply)

    async def _ask(self, command: Sequence[Any]) -> Any:  # noqa: ANN401 - a reply of Redis
        [reply] = await self._send_message([command])
        return reply

    async def _send_message(self, commands: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return each command's reply as Redis has it, an error reply as the exception that stands for it."""
        message = b"".join(map(_packed, commands))
        connection = self.connection_pool.get_available_connection()  # type: ignore[no-untyped-call]  # as above
        try:
            await self.connection_pool.ensure_connection(connection)
            # Whatever ends these early also closes the connection, so that no reply is left for another message.
            await connection.send_packed_command(message)
            return [await _reply(connection) for _ in commands]
        finally:
            await self.connection_pool.release(connection)


class SharedPipeline(PlainRedis):
    """The same for commands that come one by one: those that come at the same time share a message.

    Alone each costs this process 125 µs, by the dozen 17. Commands that wait for something (`WAIT`, `BLOCK`) belong on
    a connection of their own.
    """

    def __init__(self, redis: Redis, *, deadline: float) -> None:
        """Use the connections of `redis`. `deadline`: seconds that a message and its replies may take."""
        super().__init__(redis)
        self._deadline = deadline
        self._batches: Batches[Sequence[Any], Any] = Batches(self._send_in_time, most=MOST_COMMANDS)

    async def _ask(self, command: Sequence[Any]) -> Any:  # noqa: ANN401 - a reply of Redis
        return await self._batches.ask(command)

    async def _send_in_time(self, commands: Sequence[Sequence[Any]]) -> Sequence[Any]:
        async with asyncio.timeout(self._deadline):
            return await self._send_message(commands)


def _packed(command: Sequence[Any]) -> bytes:
    """Write a command in C, which connections of redis-py's asyncio do not use.

    redis-py's own call of that takes twice as long, and makes a tuple from a generator. Of those Python keeps 2,000 of
    each length when they are done with, and makes the next ones anew all the same: megabytes for nothing.
    """
    name, *arguments = command
    packed: bytes = pack_command((*name.split(), *arguments))
    return packed


async def _reply(connection: Any) -> Any:  # noqa: ANN401 - a reply of Redis
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
