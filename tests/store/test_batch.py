"""Questions asked together: who gets which answer, who fails with whom, who leaves whom alone."""

import asyncio
import gc
import time
from collections.abc import Sequence

import pytest
import uvloop

from gateway.store import batch
from gateway.store.batch import PATIENCE, Batches


class Redis:
    """Answers a question with its double, when it is told to; notes what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.fails: Exception | None = None
        self._may_answer = asyncio.Event()
        self._may_answer.set()

    async def ask(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        await self._may_answer.wait()
        if self.fails is not None:
            raise self.fails
        return [2 * question for question in questions]

    def hold(self) -> None:
        self._may_answer.clear()

    def go_on(self) -> None:
        self._may_answer.set()


async def turn() -> None:
    """Let everything happen that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_questions_of_one_moment_go_together_and_each_gets_its_answer() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    assert await asyncio.gather(*(batches.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert redis.batches == [[0, 1, 2, 3, 4]]


async def test_who_comes_while_a_batch_is_under_way_is_in_the_next() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    first = asyncio.create_task(batches.ask(1))
    await turn()
    others = [asyncio.create_task(batches.ask(number)) for number in (2, 3)]
    await turn()
    assert redis.batches == [[1]]
    redis.go_on()
    assert await asyncio.gather(first, *others) == [2, 4, 6]
    assert redis.batches == [[1], [2, 3]]
    assert await batches.ask(4) == 8, "and it goes on after a rest"


async def test_no_batch_holds_more_than_the_most() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=2)
    assert await asyncio.gather(*(batches.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert redis.batches == [[0, 1], [2, 3], [4]]


async def test_groups_neither_mix_nor_wait_for_each_other() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    asked = [asyncio.create_task(batches.ask(n, group=group)) for n, group in ((1, "a"), (2, "b"), (3, "a"))]
    await turn()
    assert sorted(redis.batches) == [[1, 3], [2]]
    redis.go_on()
    assert await asyncio.gather(*asked) == [2, 4, 6]


async def test_a_failure_is_that_of_its_batch_and_of_no_other() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    asked = [asyncio.create_task(batches.ask(number)) for number in (1, 2)]
    await turn()
    redis.fails = ConnectionError("gone")
    redis.go_on()
    failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(failure) for failure in failures] == [ConnectionError, ConnectionError]
    assert failures[0] is not failures[1], "each may be raised by itself"
    redis.fails = None
    assert await batches.ask(3) == 6
    assert redis.batches == [[1, 2], [3]]


async def test_a_batch_that_takes_its_time_holds_up_the_next_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience = 0.2  # a machine that is busy for some milliseconds would start the next batch too soon to be seen
    monkeypatch.setattr(batch, "PATIENCE", patience)
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    slow = asyncio.create_task(batches.ask(1))
    await turn()
    others = [asyncio.create_task(batches.ask(number)) for number in (2, 3)]
    await turn()
    assert redis.batches == [[1]]
    await asyncio.sleep(2 * patience)
    assert redis.batches == [[1], [2, 3]], "beside the first, which is still under way"
    redis.go_on()
    assert await asyncio.gather(slow, *others) == [2, 4, 6]
    await turn()
    assert batches._under_way == set()


@pytest.mark.parametrize("under_way", [True, False])
async def test_who_gives_up_takes_nobody_along(under_way: bool) -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    asked = [asyncio.create_task(batches.ask(number)) for number in (1, 2)]
    if under_way:
        await turn()
    else:
        await asyncio.sleep(0)
    asked[0].cancel()
    await turn()
    redis.go_on()
    assert await asked[1] == 4
    with pytest.raises(asyncio.CancelledError):
        await asked[0]


async def test_who_gave_up_before_the_turn_is_not_asked_for() -> None:
    redis = Redis()
    batches = Batches(redis.ask, most=10)
    redis.hold()
    first = asyncio.create_task(batches.ask(1))
    await turn()
    gone = asyncio.create_task(batches.ask(2))
    await turn()
    gone.cancel()
    await turn()
    redis.go_on()
    assert await first == 2
    await turn()
    assert redis.batches == [[1]]


def test_a_loop_that_stood_still_starts_no_batch_twice() -> None:
    async def stand_still() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        redis = Redis()
        asked = asyncio.create_task(Batches(redis.ask, most=10).ask(1))
        await asyncio.sleep(0)
        time.sleep(2 * PATIENCE)  # noqa: ASYNC251 - it is the loop that stands still
        assert await asked == 2
        await turn()
        gc.collect()  # tells of a task's failure that nobody asked for
        assert failures == []
        assert redis.batches == [[1]]

    uvloop.run(stand_still())  # whose timers come before what is ready, as asyncio's own do not
