"""Questions that come at the same time, asked together: one message to Redis and back for all of them."""

import asyncio
import copy
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batches(Generic[Question, Answer]):
    """Asks for whoever waits; who comes while it does waits for the next batch.

    Alone nobody waits longer than without it. Where many ask at once a batch holds all that came during the one before,
    so the busier a process is, the less each question costs.
    """

    def __init__(self, ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]], *, most: int) -> None:
        """`ask` returns an answer for each of at most `most` questions, in their order."""
        self._ask = ask
        self._most = most
        self._waiting: defaultdict[str, list[tuple[Question, asyncio.Future[Answer]]]] = defaultdict(list)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, question: Question, *, group: str = "") -> Answer:
        """Return the answer to a question; only questions of one group go together.

        Raises what `ask` raised for its batch, or for the one that it waited for: a wait is never that of two batches
        that fail. Who is cancelled takes nobody along.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[group].append((question, answer))
        if group not in self._asking:
            self._asking[group] = asyncio.create_task(self._ask_all(group))
        return await answer

    async def _ask_all(self, group: str) -> None:
        waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        try:
            while waiting := [one for one in self._waiting.pop(group, []) if not one[1].done()]:
                if len(waiting) > self._most:
                    self._waiting[group] = waiting[self._most :]
                    del waiting[self._most :]
                answers = await self._ask([question for question, _ in waiting])
                for (_, future), answer in zip(waiting, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        except BaseException as error:
            for _, future in [*waiting, *self._waiting.pop(group, [])]:
                if not future.done():
                    # Each its own: whoever raises it adds to it.
                    future.set_exception(copy.copy(error)) if isinstance(error, Exception) else future.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            del self._asking[group]
