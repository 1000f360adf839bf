"""Questions that come at the same time, asked together: one message to Redis and back for all of them."""

import asyncio
import copy
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")

PATIENCE = 0.005
"""Seconds for which a batch may hold up the next; Redis answers within one."""


class Batches(Generic[Question, Answer]):
    """Asks for whoever waits; who comes while a batch is under way is in the next, which starts when that one ends.

    A lone question goes at once. Where many ask, a batch holds all that came during the one before, so the busier a
    process is, the less each question costs. A batch that takes its time holds up the next no longer than `PATIENCE`.
    """

    def __init__(self, ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]], *, most: int) -> None:
        """`ask` returns an answer for each of at most `most` questions, in their order."""
        self._ask = ask
        self._most = most
        self._waiting: defaultdict[str, list[tuple[Question, asyncio.Future[Answer]]]] = defaultdict(list)
        self._in_the_way: dict[str, asyncio.Task[None]] = {}
        """By group: the batch that the next waits for."""
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question, *, group: str = "") -> Answer:
        """Return the answer to a question; only questions of one group go together.

        Raises what `ask` raised for its batch. Who is cancelled takes nobody along.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[group].append((question, answer))
        if group not in self._in_the_way:
            self._start(group)
        return await answer

    def _start(self, group: str) -> None:
        task = asyncio.create_task(self._ask_for_all(group))
        self._in_the_way[group] = task
        self._under_way.add(task)
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._make_way, group, task)
        task.add_done_callback(partial(self._end, group, timer))

    def _end(self, group: str, timer: asyncio.TimerHandle, batch: asyncio.Task[None]) -> None:
        timer.cancel()
        self._under_way.discard(batch)
        self._make_way(group, batch)

    def _make_way(self, group: str, batch: asyncio.Task[None]) -> None:
        """Let the next batch start, if `batch` is the one that it waits for."""
        if self._in_the_way.get(group) is batch:
            del self._in_the_way[group]
            if self._waiting.get(group):
                self._start(group)

    async def _ask_for_all(self, group: str) -> None:
        # Where the loop was busy for longer than `PATIENCE`, the next batch has started before and took them along.
        waiting = [one for one in self._waiting.pop(group, ()) if not one[1].done()]
        if len(waiting) > self._most:
            self._waiting[group] = waiting[self._most :]
            del waiting[self._most :]
        try:
            answers = await self._ask([question for question, _ in waiting]) if waiting else ()
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(copy.copy(error))  # each its own: whoever raises it adds to it
        except BaseException:  # the process stops
            for _, future in waiting:
                future.cancel()
            raise
        else:
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
