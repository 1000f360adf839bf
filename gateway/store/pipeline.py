"""One Redis server, and commands that come at the same time sent to it together."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.store.batch import Batches

MOST_COMMANDS = 64
"""In one message."""


class SharedPipeline(Redis):
    """redis-py's client, whose commands share pipelines.

    Alone each costs this process 120 to 250 µs, by the dozen 40.
    Commands that wait for something (`WAIT`, `BLOCK`) belong on a connection of their own.
    """

    def __init__(self, redis: Redis, *, deadline: float) -> None:
        """Use the connections of `redis`. `deadline`: seconds that a message and its replies may take."""
        super().__init__(connection_pool=redis.connection_pool)
        self._deadline = deadline
        self._batches: Batches[Sequence[Any], Any] = Batches(self._send, most=MOST_COMMANDS)

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own
        """Send a command with those of others, and return its reply."""
        if options:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py has no types here
        reply = await self._batches.ask(args)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _send(self, commands: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return each command's reply, an error reply as the exception that stands for it."""
        async with asyncio.timeout(self._deadline):
            if len(commands) == 1:  # as it often is: a pipeline would cost half as much again
                try:
                    return [await super().execute_command(*commands[0])]  # type: ignore[no-untyped-call]  # as above
                except ResponseError as error:
                    return [error]
            pipeline = self.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
