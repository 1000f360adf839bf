"""Fixtures that every test may use."""

import os

import hypothesis
import pytest

# The machine is shared: how long an example takes is no property of the code.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

pytest_plugins = [
    "tests.plugins.valkey",
    "tests.plugins.gateway",
    "tests.plugins.processes",
    "tests.plugins.chaos",
    "tests.plugins.redis_servers",
    "tests.plugins.browser",
]


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop that the gateway runs on."""
    return "asyncio"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """With STRICT=1 nothing is skipped: a tool that is missing is a failure, as CI has them all."""
    report = yield
    if os.environ.get("STRICT") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which STRICT=1 does not allow: {report.longrepr}"
    return report
