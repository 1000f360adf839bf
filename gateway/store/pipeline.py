"""One Redis server, asked over one connection: commands go out as they come, and replies come back in their order.

redis-py makes the connection, so that what an address may ask for (TLS, login, sentinels) is its own to do, and makes
sense of replies. What lies between is a third of what it takes for a command there: a pool that asks each connection
how it is, records, and streams.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from hiredis import Reader, pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

_NOT_YET: Final = object()
"""Stands for the reply that has not come as a whole."""


class PipelinedRedis(Redis):
    """redis-py's client, whose commands share a connection; alone each costs this process 95 µs, by the dozen 18.

    It waits for a reply as long as it takes: who asks has to end that by cancelling it. Commands that wait for
    something (`WAIT`, `BLOCK`) would hold up the others, and belong on a connection of their own.
    """

    def __init__(self, redis: Redis) -> None:
        """Make connections as `redis` does."""
        super().__init__(connection_pool=redis.connection_pool)
        # Made once, and connected again and again: it reads the certificates of a TLS context only the first time.
        self._connection: Any = self.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py has no types here
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._renewals = 0
        self._is_closed = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own
        """Send a command, and return what redis-py makes of its reply."""
        if options:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # as above
        channel = self._channel
        if channel is None or not channel.is_open:
            channel = await self._open()
        reply = await channel.ask(args)
        if isinstance(reply, Exception):
            raise reply
        read = self.response_callbacks.get(args[0])
        return reply if read is None else read(reply)

    async def renew(self) -> None:
        """Use new connections from now on; what is under way on others goes on there."""
        self._renewals += 1
        if self._channel is not None:
            self._channel.retire()
        await self.connection_pool.disconnect(inuse_connections=False)

    async def close_channel(self) -> None:
        """Close the connection that commands share for good; those under way fail."""
        self._is_closed = True
        if self._channel is not None:
            self._channel.close()
            await asyncio.sleep(0)  # they are told of its end in the next turn of the loop

    async def _open(self) -> "Channel":
        async with self._opening:  # one is enough for all who ask
            while self._channel is None or not self._channel.is_open:
                if self._is_closed:
                    raise RedisConnectionError("Closed")
                self._channel = await self._connect()
            return self._channel

    async def _connect(self) -> "Channel":
        """Make a connection; it takes no commands if it was renewed or closed meanwhile."""
        renewals = self._renewals
        try:
            await self._connection.connect()
            channel = Channel(await _stream_of(self._connection))
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise
        if self._is_closed or renewals != self._renewals:
            channel.retire()
        return channel


class Channel(asyncio.Protocol):
    """A connection on which any number of commands may be under way."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        """Take over a connection on which nothing is under way."""
        self._stream = stream  # it closes its connection when nobody has it any more
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET
        )
        self._replies: deque[asyncio.Future[Any]] = deque()
        """Of the commands under way, the oldest first; who does not wait any more has cancelled his."""
        self.is_open = True
        """Whether it takes further commands."""
        stream.transport.set_protocol(self)

    async def ask(self, command: Sequence[Any]) -> Any:  # noqa: ANN401 - a reply of Redis
        """Return the reply to a command as Redis has it, an error reply as the exception that stands for it.

        Raises redis-py's `ConnectionError` if the connection ends before.
        """
        # First what may fail: a reply that is expected and never asked for would give each its neighbour's.
        self._stream.transport.write(_packed(command))
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        try:
            return await reply
        except asyncio.CancelledError:
            if reply.cancelled():  # and not there already: nobody knows whether it still leads to a server that answers
                self.retire()
            raise

    def retire(self) -> None:
        """Take no further commands; close once nobody waits for a reply."""
        self.is_open = False
        if all(reply.done() for reply in self._replies):
            self.close()

    def close(self) -> None:
        """End the connection now."""
        self.is_open = False
        self._stream.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOT_YET:
                waiting = self._replies.popleft()
                if not waiting.done():
                    waiting.set_result(reply)
        except (InvalidResponse, IndexError):  # it is not Redis that speaks here, or it speaks unasked
            self.close()
        if not self.is_open:
            self.retire()

    def eof_received(self) -> None:
        """Take no more commands: the transport closes now, and throws away what is written meanwhile."""
        self.is_open = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still waits."""
        self.is_open = False
        while self._replies:
            waiting = self._replies.popleft()
            if not waiting.done():
                waiting.set_exception(RedisConnectionError("Connection closed before the reply"))


async def _stream_of(connection: Any) -> asyncio.StreamWriter:  # noqa: ANN401 - redis-py names no public class for all of them
    """Take its stream away from a connection that redis-py has made: it would read the replies itself."""
    if await connection.can_read():
        raise RedisConnectionError("The server speaks unasked, or has ended the connection")
    stream: asyncio.StreamWriter = connection._writer  # noqa: SLF001 - there is no other way to it
    connection._writer = connection._reader = None  # noqa: SLF001 - or it would close what it has no more
    return stream


def _packed(command: Sequence[Any]) -> bytes:
    """Write a command in C, which connections of redis-py's asyncio do not use.

    redis-py's own call of that takes twice as long, and makes a tuple from a generator. Of those Python keeps 2,000 of
    each length when they are done with, and makes the next ones anew all the same: megabytes for nothing.
    """
    name, *arguments = command
    packed: bytes = pack_command((*name.split(), *arguments))
    return packed
