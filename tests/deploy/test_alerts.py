"""Alerts: valid, tried out both ways, explained, and about metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.errors import UpstreamError, problem_types
from tests.plugins.promql import known

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = {alert["alert"] for alert in ALERTS}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
TRIED = [FOLDER / "alerts_test.yml", FOLDER / "alerts_slow_test.yml"]


def promtool(*arguments):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_and_the_configuration_are_valid():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("cases", TRIED, ids=lambda path: path.stem)
def test_each_alert_fires_and_stays_quiet_as_written(cases):
    assert "SUCCESS" in promtool("test", "rules", cases.name)


def test_each_alert_is_tried_both_ways():
    tried = set()
    for path in TRIED:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case["promql_expr_test"]:
                name = re.search(r'alertname="(\w+)"', check["expr"])[1]
                severities = {
                    re.search(r'severity="(\w+)"', sample["labels"])[1] for sample in check["exp_samples"]
                } or {"quiet"}
                tried |= {(name, severity) for severity in severities}
    assert tried == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS} | {
        (name, "quiet") for name in NAMES
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_rule_is_about_metrics_that_the_code_has(rule):
    assert known().faults(rule["expr"]) == []
    recorded = {other["record"] for other in RULES if "record" in other}
    assert set(re.findall(r"\b[a-z]+:\w+:\w+", rule["expr"])) <= recorded


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(gateway_nothing_total[5m])", "no metric gateway_nothing_total"),
        ('gateway_redis_up{route="/"}', "no label route of gateway_redis_up"),
        ('gateway_problems_total{code=~"internal-error|oops"}', "no value oops of code"),
        ("sum by (pid) (gateway_redis_up)", "no label pid to group by"),
    ],
)
def test_a_query_about_what_is_not_there_is_found(query, fault):
    assert known().faults(query) == [fault]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_each_alert_says_what_it_means_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{alert['alert'].lower()}")
    by = re.findall(r"\b(?:by|on) \(([^)]*)\)", alert["expr"])
    kept = {label.strip() for labels in by for label in labels.split(",")} or {"job", "instance"}
    kept |= {"job"} if "job:" in alert["expr"] else set()
    assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"])) <= kept


def test_each_alert_has_a_section_of_the_runbook_and_each_section_an_alert():
    sections = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert set(sections) == NAMES
    for name, section in sections.items():
        for part in ("**Meaning**", "**Check", "ix**:"):
            assert part in section, f"{name} lacks {part}"


def test_the_runbook_names_metrics_and_panels_that_exist():
    named = set(re.findall(r"\b(?:gateway|quantapay)_[a-z_]+_(?:total|seconds|bucket)\b", RUNBOOK))
    assert named <= {*known().labels, *(name.removesuffix("_count") for name in known().labels)}
    dashboard = (ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8")
    for panel in re.findall(r"\"([A-Z][^\"]+)\"", re.sub(r"```.*?```", "", RUNBOOK, flags=re.DOTALL)):
        assert f'"title": "{panel}"' in dashboard


def test_availability_counts_the_faults_of_our_own_and_no_others():
    counted = {
        code for rule in RULES for codes in re.findall(r'code=~"([^"]+)"', rule["expr"]) for code in codes.split("|")
    }
    own = {error.code for error in problem_types() if error.status >= 500 and not issubclass(error, UpstreamError)}
    # A replica that drains is asked for nothing, and webhooks without a secret have an alert of their own.
    assert counted == own - {"not-ready", "webhooks-not-configured"}
