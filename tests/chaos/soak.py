"""Minutes of mixed load with faults at one gateway process: what it holds must not grow. `make soak` runs it.

Every few seconds a line tells what the process holds. In the end memory is judged by its trend after a warm-up,
which says more than the difference of two moments; descriptors and threads by their highest, late against early.
"""

import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

import typer
import yaml
from pydantic import SecretStr

from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.chaos_faults import random_fault
from tests.plugins.chaos_levels import Level, level_of
from tests.plugins.chaos_mix import Mix, mixed
from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.gateway import API_KEY, WEBHOOK_SECRET, example_config
from tests.plugins.processes import GatewayProcess
from tests.plugins.valkey import ValkeyServer

TIMEOUT = 2.0
"""QUANTAPAY_TIMEOUT in seconds."""
REDIS_WAIT = 0.1
SAMPLES = 60
"""Over the whole run; ten minutes give one every ten seconds."""
WARM_UP = 0.3
"""Of the run: caches, pools and the allocator find their size."""
MOST_GROWTH = 0.05
"""Of resident memory, from the warm-up to the end, by the trend."""
SPARE = 8
"""Descriptors or threads by which two stretches of the run may differ."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway held at a moment of the run."""

    seconds: float
    level: Level


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was judged."""

    what: str
    good: bool


def judge(samples: Sequence[Sample], mix: Mix, *, left_hanging: int) -> list[Finding]:
    """Say what is flat and what is not; `left_hanging`: requests in flight after all callers had gone."""
    warm = samples[int(len(samples) * WARM_UP) :]
    half = len(warm) // 2
    memory = [sample.level.rss for sample in warm]
    times = [sample.seconds for sample in warm]
    trend = linear_regression(times, memory)
    growth = trend.slope * (times[-1] - times[0])
    files, threads = ([getattr(sample.level, name) for sample in warm] for name in ("files", "threads"))
    findings = [
        Finding(f"memory: {growth:+.1f} MiB by the trend, of {memory[0]:.0f}", growth <= MOST_GROWTH * memory[0])
    ]
    for name, seen in (("descriptors", files), ("threads", threads)):
        early, late = max(seen[:half]), max(seen[half:])
        findings.append(
            Finding(f"{name}: at most {early} in the first half, {late} in the second", late <= early + SPARE)
        )
    findings.append(Finding(f"requests that were left hanging: {left_hanging}", left_hanging == 0))
    findings.append(Finding(f"answers that no caller should see: {len(mix.wrong)} {mix.wrong[:3]}", not mix.wrong))
    pages = [order.key for order in mix.orders if len(order.pages) > 1]
    findings.append(Finding(f"keys that showed more than one page: {pages}", not pages))
    return findings


@contextmanager
def surroundings(seed: int) -> Iterator[tuple[GatewayProcess, ChaosProxy, ChaosProxy]]:
    """Run a gateway between a simulator and a Valkey, each behind a proxy."""
    options = SimulatorOptions(
        api_key=SecretStr(API_KEY), webhook_secret=SecretStr(WEBHOOK_SECRET), throttle_per_minute=None
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantapay-soak-")))
        valkey = ValkeyServer(folder)
        stack.callback(valkey.stop)
        upstream = stack.enter_context(ChaosProxy(stack.enter_context(running_simulator(options)), seed=seed))
        redis = stack.enter_context(ChaosProxy(valkey.url, seed=seed + 1))
        config = {**example_config(), "cache": {"balances": 1, "exchange_rates": 5}}
        (folder / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        gateway = GatewayProcess(
            folder,
            {
                "QUANTAPAY_API_KEY": API_KEY,
                "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
                "QUANTAPAY_URL": f"{upstream.url('http')}/api.php",
                "QUANTAPAY_PAYMENT_HOSTS": "127.0.0.1",
                "QUANTAPAY_TIMEOUT": str(TIMEOUT),
                "QUANTAPAY_BUDGET": "3000/minute",
                "GATEWAY_REDIS_URL": redis.url("redis"),
                "GATEWAY_DRAIN_SECONDS": "0",
                "GATEWAY_LOG_LEVEL": "warning",
            },
        )
        stack.callback(gateway.stop)
        yield gateway, upstream, redis


def trouble(upstream: ChaosProxy, redis: ChaosProxy, *, dice: random.Random, until: float) -> None:
    """Break one side or the other for a while each, with calm between."""
    while time.monotonic() < until:
        proxy, deadline = dice.choice([(upstream, TIMEOUT), (redis, REDIS_WAIT)])
        proxy.turn_on(random_fault(dice, deadline=deadline))
        time.sleep(min(dice.uniform(0.1, 2.0), max(0.0, until - time.monotonic())))
        proxy.heal()
        time.sleep(min(dice.uniform(0.1, 1.0), max(0.0, until - time.monotonic())))


def in_flight(gateway: GatewayProcess) -> int:
    return int(gateway.total("gateway_http_requests_in_flight"))


def in_flight_in_the_end(gateway: GatewayProcess) -> int:
    """Wait until the last request has ended, at most twice as long as any may take; return how many have not."""
    deadline = time.monotonic() + 2 * TIMEOUT
    while (left := in_flight(gateway)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def soak(seconds: float, seed: int, tell: Callable[[str], None]) -> list[Finding]:
    """Run for so long and return what was found."""
    dice = random.Random(seed)
    samples: list[Sample] = []
    with surroundings(seed) as (gateway, upstream, redis):
        with mixed(gateway.url, seed=seed) as mix:
            tell("seconds  RSS (MiB)  descriptors  threads  in flight   answers  wrong")
            started = time.monotonic()
            for number in range(1, SAMPLES + 1):
                trouble(upstream, redis, dice=dice, until=started + seconds * number / SAMPLES)
                now, level, count = time.monotonic() - started, level_of(gateway.process.pid), in_flight(gateway)
                samples.append(Sample(now, level))
                tell(
                    f"{now:7.0f}  {level.rss:9.1f}  {level.files:11}  {level.threads:7}"
                    f"  {count:9}  {mix.answers.total():8}  {len(mix.wrong):5}"
                )
        return judge(samples, mix, left_hanging=in_flight_in_the_end(gateway))


def main() -> None:
    """Soak, tell, and exit with 1 if anything grew."""
    seconds = float(os.environ.get("SOAK_SECONDS") or 600)
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(2**32))
    typer.echo(f"CHAOS_SEED={seed} SOAK_SECONDS={seconds:.0f}")
    findings = soak(seconds, seed, typer.echo)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.what}")
    sys.exit(0 if all(finding.good for finding in findings) else 1)


if __name__ == "__main__":
    main()
