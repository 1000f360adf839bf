"""Faults that come and go at random on both sides of a gateway under mixed load: every promise holds throughout."""

import asyncio
import random
import time
from collections import Counter
from datetime import datetime

import pytest
import yaml

from gateway.errors import UpstreamBudgetExhausted
from tests.plugins.chaos_faults import Kind, random_fault
from tests.plugins.chaos_levels import level_of
from tests.plugins.chaos_mix import Mix, mixed
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.gateway import MARKER, example_config
from tests.plugins.processes import until

pytestmark = pytest.mark.usefixtures("unmeasured")

TIMEOUT = 1.0
"""QUANTAPAY_TIMEOUT in seconds."""
BUDGET = 2000
"""Calls a minute."""
SECONDS = 5.0
"""Of faults, in the short form."""
SLACK = 1.5
"""Seconds that a request may take beyond all promises on a machine that does much else at the same time."""
PATIENCE = 100.0
"""Seconds until every order has its page: a minute for a budget that is used up, and some for those many requests."""
SPARE_FILES = 16
"""A kept connection for each call that was ever under way at once."""
SPARE_RSS = 40.0
"""MiB."""
REDIS_WAIT = 0.1
HEALED_AT_ONCE = 0.8
"""How often a side is healed before another fault, there or on the other side, begins."""


def trouble(upstream: ChaosProxy, redis: ChaosProxy, *, dice: random.Random, seconds: float) -> None:
    """Break one side or the other, for a while each; nothing is broken afterwards."""
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        proxy, deadline = dice.choice([(upstream, TIMEOUT), (redis, REDIS_WAIT)])
        fault = random_fault(dice, deadline=deadline)
        proxy.turn_on(fault)
        time.sleep(dice.uniform(0.05, 0.8))
        # Never frozen for a second: a request held up so long would reach QuantaPay in another minute than granted.
        if fault.kind is Kind.FREEZE or dice.random() < HEALED_AT_ONCE:
            proxy.heal()
            time.sleep(dice.uniform(0, 0.3))
    upstream.heal()
    redis.heal()


def test_every_promise_holds_while_everything_breaks(
    start_gateway, simulator, chaos_upstream, chaos_redis, chaos_seed, chaos_seconds, tmp_path
):
    config = {**example_config(), "cache": {"balances": 1, "exchange_rates": 2, "credit_balance": 0}}
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    gateway = start_gateway(
        QUANTAPAY_URL=f"{chaos_upstream.url('http')}/api.php",
        QUANTAPAY_TIMEOUT=str(TIMEOUT),
        QUANTAPAY_BUDGET=f"{BUDGET}/minute",
        GATEWAY_REDIS_URL=chaos_redis.url("redis"),
    )
    pid = gateway.process.pid
    with mixed(gateway.url, seed=chaos_seed) as mix:
        until(lambda: mix.answers.total() > 100, "calm requests are answered")
        before = level_of(pid)
        trouble(chaos_upstream, chaos_redis, dice=random.Random(chaos_seed), seconds=chaos_seconds or SECONDS)
        until(lambda: goes_well(mix), "all goes well again by itself")
    unanswered = asyncio.run(mix.settle(patience=PATIENCE))

    print(dict(chaos_upstream.counters.struck), dict(chaos_redis.counters.struck), dict(mix.answers))
    assert mix.wrong == []
    assert unanswered == []
    assert mix.slowest <= TIMEOUT * 1.1 + REDIS_WAIT + SLACK
    one_page_each(mix)
    prices_arrived_as_sent(mix, simulator)
    no_minute_is_over_budget(simulator)
    until(lambda: level_of(pid).files <= before.files + SPARE_FILES, "files are closed")
    until(lambda: gateway.total("gateway_http_requests_in_flight") == 0, "no request is left hanging")
    assert level_of(pid).rss <= before.rss + SPARE_RSS
    bugs = [line for line in gateway.lines() if line["event"] == "bug"]
    assert not bugs, "\n".join(f"{bug['error']}: {', '.join(bug['frames'])}" for bug in bugs)
    assert MARKER not in str(gateway.lines())


def goes_well(mix: Mix) -> bool:
    """Watch for a moment whether all is answered well, as far as the budget goes."""
    before = mix.answers.copy()
    until(lambda: mix.answers.total() > before.total() + 50, "more requests are answered")
    seen = mix.answers.copy() - before
    return all(status < 500 or code == UpstreamBudgetExhausted.code for _, status, code in seen)


def one_page_each(mix: Mix) -> None:
    assert [order for order in mix.orders if len(order.pages) > 1] == []
    pages = [page for order in mix.orders for page in order.pages]
    assert len(set(pages)) == len(pages)


def prices_arrived_as_sent(mix: Mix, simulator) -> None:
    wanted = {order.body["order_id"]: order.body["price"] for order in mix.orders}
    creates = [dict(call["fields"]) for call in simulator.calls() if call["function"] == "create-checkout-session"]
    assert creates
    assert [fields for fields in creates if fields["price"] != wanted[fields["order_id"]]] == []


def no_minute_is_over_budget(simulator) -> None:
    seconds = Counter(int(datetime.fromisoformat(call["received_at"]).timestamp()) for call in simulator.calls())
    for start in seconds:
        assert sum(seconds[start + offset] for offset in range(60)) <= BUDGET
