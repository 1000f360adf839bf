"""The budget's script on a real Valkey whose clock the tests hold: asks of one call, beside the same one by one."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.quantapay.budget.share import LOGS, limits
from gateway.store.redis import Script
from tests.plugins.valkey import ValkeyServer

START = 1_775_000_000_000_000
"""A time of 2026, as Redis's clock gives it, in microseconds."""
HELD_TIME = "held:now"


@dataclass(frozen=True)
class Moment:
    """Asks of one process at one time."""

    gap: int
    """Microseconds after those before; less than 0 if the clock was set back."""
    asks: list[tuple[int, bool, int]]
    """Of each its depth, whether it fits the share, and for how long the process knows of a throttle."""
    in_touch: bool
    expected: bool
    """Whether the time is one that the process expects."""


moments = st.builds(
    Moment,
    st.one_of(st.just(0), st.integers(0, 2_000_000), st.integers(0, 70_000_000), st.integers(-90_000_000, 0)),
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([0, 0, 0, 20_000_000, 70_000_000])),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([True, True, True, False]),
)


def decide(client: redis.Redis, amount: int, history: list[Moment], *, together: bool) -> list[Any]:
    """Return what the script says to each ask, and what it leaves behind; `together`, asks of a moment are one call."""
    client.flushall()
    script = Script.load("gateway.quantapay.budget", "ledger.lua").text
    script = script.replace('redis.call("TIME")', f'{{0, redis.call("GET", "{HELD_TIME}")}}')
    keys = [f"qpg:{{budget:acct}}:{name}" for name in (*LOGS, "generation", "throttled")]
    caps = (*limits(amount), *limits(max(1, amount // 2)))
    settings_ = json.dumps([61_000_000, 6_000_000, 60_000_000, *caps])
    now, known, answers, numbers = START, "", [], itertools.count()
    for moment in history:
        now += moment.gap
        client.set(HELD_TIME, now)
        asks = [f"id:{next(numbers)} {depth} {fits:d} {throttled}" for depth, fits, throttled in moment.asks]
        generation = known
        for call in [" ".join(asks)] if together else asks:
            latest = now + 1000 if moment.expected else now - 1000
            reply: Any = client.eval(script, 5, *keys, settings_, known, int(moment.in_touch), latest, call)
            time_then, generation, new_for, *of_asks = reply
            each = zip(*[iter(of_asks)] * 5, strict=True)
            answers += [(time_then, generation, new_for, *answer) for answer in each]
        known = generation.decode()
    logs = [client.zrange(key, 0, -1, withscores=True) for key in keys[:3]]
    return [*answers, *logs, client.get(keys[3]), client.get(keys[4])]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(amount=st.integers(1, 12), history=st.lists(moments, min_size=1, max_size=20))
def test_asks_in_one_call_are_decided_as_if_they_came_one_by_one(
    valkey: ValkeyServer, amount: int, history: list[Moment]
) -> None:
    with valkey.client() as client:
        assert decide(client, amount, history, together=True) == decide(client, amount, history, together=False)
