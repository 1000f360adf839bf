"""Fixtures of the chaos suite: proxies that break what is behind the gateway, and for how long the suite runs.

`make chaos` sets CHAOS_SECONDS; without it every test takes its short form. CHAOS_SEED repeats a random run.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from tests.plugins.chaos_proxy import ChaosProxy
from tests.plugins.gateway import Simulator
from tests.plugins.valkey import ValkeyServer


@pytest.fixture(scope="session")
def chaos_seconds() -> float | None:
    """How long the long form of a test may take; None asks for the short form."""
    text = os.environ.get("CHAOS_SECONDS", "")
    return float(text) if text else None


@pytest.fixture(scope="session")
def _session_seed() -> int:
    return int(os.environ.get("CHAOS_SEED") or secrets.randbelow(2**32))


@pytest.fixture
def chaos_seed(_session_seed: int) -> int:
    """What the dice of this run start from. Printed, so that a failure shows it."""
    print(f"CHAOS_SEED={_session_seed}")  # noqa: T201 - pytest shows it with a failure
    return _session_seed


@pytest.fixture(scope="module")
def _module_upstream(_session_simulator: Simulator, _session_seed: int) -> Iterator[ChaosProxy]:
    with ChaosProxy(_session_simulator.url, seed=_session_seed) as proxy:
        yield proxy


@pytest.fixture
def chaos_upstream(_module_upstream: ChaosProxy, simulator: Simulator, chaos_seed: int) -> Iterator[ChaosProxy]:
    """A proxy before the session's simulator, healed before and after each test."""
    yield _module_upstream
    _module_upstream.target = simulator.url
    _module_upstream.heal()


@pytest.fixture(scope="module")
def _module_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def _module_redis(_module_valkey: ValkeyServer, _session_seed: int) -> Iterator[ChaosProxy]:
    with ChaosProxy(_module_valkey.url, seed=_session_seed + 1) as proxy:
        yield proxy


@pytest.fixture
def chaos_redis(_module_redis: ChaosProxy, _module_valkey: ValkeyServer, chaos_seed: int) -> Iterator[ChaosProxy]:
    """A proxy before a Valkey of the module's own, empty; healed before and after each test."""
    _module_valkey.flush()
    yield _module_redis
    _module_redis.heal()


@pytest.fixture
def rate(chaos_seconds: float | None) -> float:
    """Requests a second for a steady load."""
    return 100.0 if chaos_seconds is None else 250.0


ROUNDS_AT_ONCE = 20
"""The long form shares its seconds among about as many tests as go in rounds."""


@pytest.fixture
def rounds(chaos_seconds: float | None) -> Callable[[], Iterator[int]]:
    """Counts the rounds of a test: one in the short form, in the long form as many as its share of time allows."""

    def count() -> Iterator[int]:
        until = time.monotonic() + (chaos_seconds or 0.0) / ROUNDS_AT_ONCE
        number = 0
        while number == 0 or time.monotonic() < until:
            yield number
            number += 1

    return count
