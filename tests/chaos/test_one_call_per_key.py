"""Thousands of reads over many processes: each rate is asked for once a freshness period, a kill notwithstanding."""

import itertools
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from gateway.sandbox.simulator.market import COINS
from tests.plugins.gateway import ORDERS_KEY, example_config

pytestmark = pytest.mark.usefixtures("unmeasured")

PAIRS = list(itertools.islice(itertools.product(COINS, ("usd", "eur", "gbp", "chf", "jpy")), 50))
FRESH_FOR = 3
SHORT = (8.0, 2_000)
LONG = (60.0, 5_000)
"""Seconds, and reads in them."""
CALLERS = 8


def test_a_rate_costs_one_call_a_freshness_period(start_gateway, simulator, tmp_path, chaos_seconds):
    length, reads = SHORT if chaos_seconds is None else LONG
    config = example_config()
    config["cache"] = {"exchange_rates": FRESH_FOR}
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    gateways = [start_gateway(GATEWAY_WORKERS="2"), start_gateway(GATEWAY_WORKERS="2")]
    started = time.monotonic()
    answered: Counter[int] = Counter()

    def read(caller: int) -> None:
        chance = random.Random(caller)
        pause = length * CALLERS / reads
        with httpx.Client(headers={"Authorization": f"Bearer {ORDERS_KEY}"}, timeout=10) as http:
            due = started
            while (due := due + pause) < started + length:
                time.sleep(max(0.0, due - time.monotonic()))
                coin, currency = chance.choice(PAIRS)
                url = f"{chance.choice(gateways).url}/exchange-rates/{coin}"
                try:
                    answered[http.get(url, params={"currency": currency}).status_code] += 1
                except httpx.HTTPError:
                    answered[0] += 1  # the worker that was killed had it

    with ThreadPoolExecutor(CALLERS) as pool:
        reading = [pool.submit(read, caller) for caller in range(CALLERS)]
        time.sleep(length / 2)
        os.kill(gateways[0].children()[0], signal.SIGKILL)
        for future in reading:
            future.result()
    took = time.monotonic() - started

    calls = Counter(tuple(value for _, value in call["fields"][:2]) for call in simulator.calls())
    print(f"{dict(answered)} answers, {sum(calls.values())} calls for {len(calls)} rates in {took:.1f} s")
    assert answered[200] >= reads * 0.9
    assert answered.keys() <= {0, 200}
    assert answered[0] <= CALLERS
    assert len(calls) == len(PAIRS)
    assert max(calls.values()) <= took // FRESH_FOR + 1
