"""A real Prometheus watches a real gateway of two workers under traffic, and is asked all that dashboard and alerts ask."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.plugins.processes import GatewayProcess, until
from tests.plugins.promql import known
from tests.plugins.watching import DEPLOY, JOB, WORKERS, Prometheus, Traffic, gateway_of_workers

RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    for target in panel.get("targets", [])
]
INPUTS = sorted({selector for rule in RULES for selector in known().selectors(rule["expr"])})
_VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[tuple[Prometheus, GatewayProcess, Traffic]]:
    """Prometheus, the gateway it watches, and traffic that goes on until the test that ends it."""
    with ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it would double what each request costs
        folder = tmp_path_factory.mktemp("prometheus")
        if shutil.which("prometheus") is None:
            pytest.skip("prometheus is not installed")
        gateway, _ = stack.enter_context(gateway_of_workers(folder))
        prometheus = Prometheus(folder, gateway.ops_url.removeprefix("http://"))
        stack.callback(prometheus.stop)
        traffic = Traffic(gateway)
        stack.callback(traffic.end)
        delivered = 'gateway_webhook_deliveries_total{subscriber="orders",outcome="delivered"} > 1'
        until(prometheus.is_ready, "Prometheus is ready")
        until(lambda: prometheus.scrapes() >= 4, "Prometheus has scraped", every=0.2)
        until(lambda: prometheus.ask(delivered), "events are delivered", every=0.2)
        yield prometheus, gateway, traffic


@pytest.fixture
def prometheus(watched) -> Prometheus:
    return watched[0]


@pytest.mark.parametrize("query", TARGETS)
def test_each_query_of_the_dashboard_has_data(query, prometheus):
    for variable, text in _VARIABLES.items():
        query = query.replace(variable, text)
    assert "$" not in query
    assert prometheus.ask(query)


@pytest.mark.parametrize("selector", INPUTS)
def test_each_series_that_an_alert_reads_is_there(selector, prometheus):
    assert prometheus.ask(selector)


def test_the_rules_are_evaluated_and_healthy_traffic_fires_none(prometheus):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {rule["health"] for rule in rules} == {"ok"}
    for rule in RULES:
        if "record" in rule:
            assert prometheus.ask(rule["record"])
    firing = [alert for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]
    assert firing == []


def test_problems_are_counted_by_code(prometheus):
    for code in ("not-found", "rate-limited"):
        assert prometheus.number(f'sum(gateway_problems_total{{code="{code}"}})') > 0
    assert prometheus.number('sum(gateway_problems_total{code="internal-error"})') == 0


def test_what_callers_had_fetched_shows_what_is_held(prometheus):
    held = prometheus.ask("sum by (cryptocurrency) (quantapay_balance)")
    assert {dict(labels)["cryptocurrency"]: value for labels, value in held.items()} == {
        "btc": 0.1,
        "eth": 2.5,
        "usdt": 1250.5,
    }
    assert prometheus.number('sum(quantapay_credit_balance{currency="usd"})') == 150.25


def test_workers_are_one_target_and_the_death_of_one_takes_and_doubles_nothing(watched):
    prometheus, gateway, traffic = watched
    victim = next(pid for pid in gateway.children() if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    gateway.samples("gateway_")  # for which workers write down what they counted
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in gateway.children(), "the worker is gone")
    traffic.end()
    until(lambda: gateway.status()["workers"]["phases"] == ["ready"] * WORKERS, "there are two workers again")
    before = prometheus.scrapes()
    until(lambda: prometheus.scrapes() >= before + 2, "Prometheus has scraped again", every=0.2)
    assert prometheus.ask('{job="quantapay-gateway", pid!=""}') == {}
    assert prometheus.number(f'count(up{{job="{JOB}"}})') == 1
    assert prometheus.number('max(resets({__name__=~"gateway_.*_total|quantapay_.*_total"}[2m]))') == 0
    counted = 'sum(gateway_http_requests_total{route="/balances", status="200"})'
    # One that the killed worker had just answered may not be written down; one that it was answering may be counted,
    # and is not answered.
    assert abs(prometheus.number(counted) - traffic.balances_asked) <= 1
    assert prometheus.number("sum(gateway_http_requests_in_flight)") == 0
    assert max(prometheus.ask("sum by (function) (quantapay_breaker_state)").values()) <= WORKERS
    for once in ("quantapay_budget_limit", "gateway_redis_up", "gateway_build_info", "quantapay_clock_skew_seconds"):
        assert len(prometheus.ask(once)) == 1, once


def test_the_intervals_of_the_rules_fit_the_scrapes():
    """A rate needs two samples, better four: no window may be shorter than four scrapes."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    scrape = int(config["global"]["scrape_interval"].removesuffix("s"))
    units = {"m": 60, "h": 3600, "d": 86400}
    windows = [
        int(count) * units[unit] for rule in RULES for count, unit in re.findall(r"\[(\d+)([mhd])\]", rule["expr"])
    ]
    assert windows
    assert min(windows) >= 4 * scrape
