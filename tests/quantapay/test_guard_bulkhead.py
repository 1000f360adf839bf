"""The bulkhead: so many at once, in turn, and no place is ever lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.quantapay.guard.bulkhead import Bulkhead


class Crowd:
    """Tasks that each want a place and keep it until they are told to go."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.inside: list[int] = []
        self.most_inside = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.leave: list[asyncio.Event] = []

    def add(self) -> None:
        self.leave.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self._come_and_go(len(self.tasks))))

    async def _come_and_go(self, number: int) -> None:
        async with self.bulkhead:
            self.inside.append(number)
            self.most_inside = max(self.most_inside, len(self.inside))
            try:
                await self.leave[number].wait()
            finally:
                self.inside.remove(number)

    async def end(self) -> None:
        for event in self.leave:
            event.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_are_given_in_the_order_of_asking():
    crowd = Crowd(Bulkhead(places=2))
    for _ in range(5):
        crowd.add()
    await settled()
    assert crowd.inside == [0, 1]
    crowd.leave[1].set()
    await settled()
    assert crowd.inside == [0, 2]
    crowd.add()
    crowd.leave[0].set()
    await settled()
    assert crowd.inside == [2, 3]
    await crowd.end()


async def test_one_too_many_to_wait_is_refused_at_once():
    crowd = Crowd(Bulkhead(places=1, most_waiting=2))
    for _ in range(3):
        crowd.add()
    await settled()
    with pytest.raises(Overloaded) as refused:
        async with crowd.bulkhead:
            pytest.fail("there was no place")
    assert (refused.value.retry_after, refused.value.outcome) == (1, "not_sent")
    crowd.leave[0].set()
    await settled()
    assert crowd.inside == [1]
    crowd.add()  # there is room to wait again
    await settled()
    assert not crowd.tasks[-1].done()
    await crowd.end()


async def test_who_waits_too_long_is_refused_and_the_next_in_line_is_not_forgotten():
    crowd = Crowd(Bulkhead(places=1, longest_wait=0.02))
    crowd.add()
    await settled()
    with pytest.raises(Overloaded) as refused:
        async with crowd.bulkhead:
            pytest.fail("there was no place")
    assert (refused.value.retry_after, refused.value.outcome) == (1, "not_sent")
    crowd.add()
    crowd.leave[0].set()
    await settled()
    assert crowd.inside == [1]
    await crowd.end()


async def test_the_place_of_a_call_that_fails_is_free_again():
    bulkhead = Bulkhead(places=1, longest_wait=0)
    for _ in range(3):
        with pytest.raises(KeyError):
            async with bulkhead:
                raise KeyError


MOVES = st.lists(
    st.tuples(st.sampled_from(["come", "come", "leave", "cancel", "leave and cancel the next", "turn"]), st.integers(0, 7)),
    max_size=40,
)  # fmt: skip


@given(moves=MOVES)
def test_whoever_is_cancelled_wherever_it_waits_no_place_is_lost_and_no_more_are_given(moves):
    async def play() -> None:
        crowd = Crowd(Bulkhead(places=2, most_waiting=4))
        for move, which in moves:
            if move == "come":
                crowd.add()
            elif move == "turn":
                await asyncio.sleep(0)
            elif crowd.tasks:
                number = which % len(crowd.tasks)
                if move.startswith("leave"):
                    crowd.leave[number].set()
                if move.endswith("next"):
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)  # the place is free and its next holder woken, but not yet inside
                    number = (number + 1) % len(crowd.tasks)
                if "cancel" in move:
                    crowd.tasks[number].cancel()
        await crowd.end()
        assert crowd.most_inside <= 2
        after = Crowd(crowd.bulkhead)
        for _ in range(6):
            after.add()
        await settled()
        assert after.inside == [0, 1]
        assert not any(task.done() for task in after.tasks)  # four wait: nobody else is still counted as waiting
        await after.end()

    asyncio.run(play())
