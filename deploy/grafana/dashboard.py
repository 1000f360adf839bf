"""The Grafana dashboard as code: `python deploy/grafana/dashboard.py` writes dashboard.json next to it.

Its rows follow the way of a request. In a query, `@` stands for the chosen job and instances. Rates are summed over
instances; gauges that all replicas hold alike (budget, backlog) are taken once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("dashboard.json")
SELECTED = 'job=~"$job", instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Columns of Grafana's grid."""
HEIGHT = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph, or one number for each series (`stat`). `unit` is Grafana's name of it."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """PromQL with its legend."""
    stat: bool = False
    stacked: bool = False


def latest(gauge: str, function: str) -> str:
    """Return a gauge of what was fetched, from the replica that fetched it last."""
    fetched = f'quantapay_balance_timestamp_seconds{{@, function="{function}"}}'
    return f"{gauge}{{@}} and on (job, instance) topk by (job) (1, {fetched})"


def quantile(share: float, histogram: str, by: str, more: str = "") -> str:
    """Return the time within which a share of what was measured was done, by a label. `more` selects as in `rate`."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}', more)})"


def rate(counter: str, by: str, more: str = "") -> str:
    """Return what a counter counted in a second, by labels. `more` selects among its series."""
    return f"sum by ({by}) (rate({counter}{{@{more}}}[$__rate_interval]))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel(
            "Requests by route",
            "Answers in a second, whatever their status. Probes and the SDK are among them.",
            "reqps",
            ((rate("gateway_http_requests_total", "route"), "{{route}}"),),
            stacked=True,
        ),
        Panel(
            "Which problems do callers get?",
            "Answers that are problems, by the code in their body. What it means is at /problems/<code>.",
            "reqps",
            ((f"{rate('gateway_problems_total', 'code')} > 0", "{{code}}"),),
            stacked=True,
        ),
        Panel(
            "How long do answers take?",
            "The slowest of 20 requests take longer than this. Event streams last for minutes and are left out.",
            "s",
            ((quantile(0.95, "gateway_http_request_duration_seconds", "route", ', route!~".*/events"'), "{{route}}"),),
        ),
    ),
    "Clients and limits": (
        Panel(
            "Who asks?",
            "Requests by client as gateway.yaml names it. Refused ones count too.",
            "reqps",
            ((rate("gateway_client_requests_total", "client"), "{{client}}"),),
            stacked=True,
        ),
        Panel(
            "Is anybody held back?",
            "Requests refused with 429 by a client's own limit, or by that of its visitors' addresses. `local`: Redis "
            "did not answer, and each process went on with its share.",
            "reqps",
            (
                (
                    rate("gateway_rate_limit_decisions_total", "limit, store", ', decision="refused"'),
                    "limit of a {{limit}}, by {{store}}",
                ),
            ),
        ),
    ),
    "Cache": (
        Panel(
            "How are reads served?",
            "`hit`: without a call. `collapsed`: by a call that another had begun. `stale`: QuantaPay failed.",
            "ops",
            ((rate("gateway_cache_lookups_total", "result"), "{{result}}"),),
            stacked=True,
        ),
    ),
    "QuantaPay and the budget": (
        Panel(
            "Calls to QuantaPay",
            "By outcome: `ok`, or the problem that callers get. Calls that were not sent are among them.",
            "reqps",
            ((f"{rate('quantapay_requests_total', 'outcome')} > 0", "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "How long does QuantaPay take?",
            "The slowest of 20 calls take longer than this, by function.",
            "s",
            ((quantile(0.95, "quantapay_request_duration_seconds", "function"), "{{function}}"),),
        ),
        Panel(
            "Calls left in this minute",
            "Of those that all replicas together may make. Halved while QuantaPay throttles. The last fifth is for "
            "payments alone.",
            "short",
            (
                ("min by (job) (quantapay_budget_remaining{@})", "left"),
                ("max by (job) (quantapay_budget_limit{@})", "allowed"),
            ),
        ),
        Panel(
            "Open breakers",
            "Processes that do not ask a function any more, but for a probe every five seconds.",
            "short",
            (('sum by (function) (quantapay_breaker_state{@, state!="closed"})', "{{function}}"),),
        ),
        Panel(
            "How far apart are the clocks?",
            "QuantaPay's clock less ours. Beyond five minutes either way it refuses to start payments.",
            "s",
            (("quantapay_clock_skew_seconds{@}", "{{instance}}"),),
        ),
        Panel(
            "What is held at QuantaPay?",
            "Coins by QuantaPay's reckoning, and credits for its fee: as last fetched for a caller of /balances and "
            "/credit-balance. Nothing is fetched for this graph.",
            "short",
            (
                (latest("quantapay_balance_fiat", "get-balances"), "{{cryptocurrency}} in {{currency}}"),
                (latest("quantapay_credit_balance", "get-credit-balance"), "credits in {{currency}}"),
            ),
        ),
    ),
    "Webhooks": (
        Panel(
            "Webhooks of QuantaPay",
            "What became of them. Only `queued` ones are acted on; `ignored` ones tell of no money.",
            "reqps",
            ((rate("gateway_webhooks_received_total", "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Payment events in an hour",
            "Each payment's events count once, from a webhook or from reconciliation. All but `payment.completed` want "
            "a look.",
            "short",
            (("sum by (type) (increase(gateway_payment_events_total{@}[1h]))", "{{type}}"),),
        ),
        Panel(
            "Attempts to deliver events",
            "To subscribers, by outcome. `dead`: the event was given up and waits for `webhooks replay`.",
            "ops",
            ((rate("gateway_webhook_deliveries_total", "subscriber, outcome"), "{{subscriber}}: {{outcome}}"),),
        ),
        Panel(
            "Events that wait, and those given up",
            "By subscriber. Given up ones stay until they are replayed or discarded.",
            "short",
            (
                ("max by (subscriber) (gateway_webhook_backlog{@})", "{{subscriber}}: waiting"),
                ("max by (subscriber) (gateway_webhook_dead_letters{@})", "{{subscriber}}: given up"),
            ),
        ),
    ),
    "Sessions": (
        Panel(
            "Checkout sessions in an hour",
            "Made, found again by the same order, and moved to a status. `unmatched`: a payment without a session.",
            "short",
            (("sum by (event) (increase(gateway_checkout_sessions_total{@}[1h]))", "{{event}}"),),
        ),
        Panel(
            "Open event streams",
            "Browsers that wait for their payment.",
            "short",
            (("sum by (instance) (gateway_event_streams{@})", "{{instance}}"),),
        ),
    ),
    "Process": (
        Panel(
            "Is Redis there?",
            "1 while Redis answers each process of a replica in time.",
            "short",
            (("gateway_redis_up{@}", "{{instance}}"),),
            stat=True,
        ),
        Panel(
            "How long does Redis take?",
            "The slowest of 100 commands take longer than this. No request waits longer than 100 ms.",
            "s",
            ((quantile(0.99, "gateway_redis_command_duration_seconds", "instance"), "{{instance}}"),),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            }
        )
        top += 1
        for line in _lines(row):
            width = WIDTH // len(line)
            for column, panel in enumerate(line):
                place = {"x": column * width, "y": top, "w": width, "h": HEIGHT}
                panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            top += HEIGHT
    return {
        "uid": "quantapay-gateway",
        "title": "QuantaPay gateway",
        "description": "Made by deploy/grafana/dashboard.py. What to do about an alert is in docs/runbook.md.",
        "tags": ["quantapay"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _lines(row: tuple[Panel, ...]) -> list[tuple[Panel, ...]]:
    """Put at most four panels side by side, in lines as even as possible."""
    count = -(-len(row) // 4)
    most = -(-len(row) // count)
    return [row[at : at + most] for at in range(0, len(row), most)]


def _panel(panel: Panel) -> dict[str, Any]:
    custom = {
        "drawStyle": "line",
        "fillOpacity": 25 if panel.stacked else 0,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    shown = (
        {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "none"}
        if panel.stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": None, "custom": {} if panel.stat else custom},
            "overrides": [],
        },
        "options": shown,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query.replace("@", SELECTED),
                "legendFormat": legend,
                "instant": panel.stat,
                "range": not panel.stat,
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    chosen = (
        ("job", "Job", "label_values(gateway_build_info, job)"),
        ("instance", "Instance", 'label_values(gateway_build_info{job=~"$job"}, instance)'),
    )
    return [
        source,
        *(
            {
                "name": name,
                "label": label,
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "includeAll": True,
                "allValue": ".*",
                "multi": True,
                "current": {"text": ["All"], "value": ["$__all"], "selected": True},
            }
            for name, label, query in chosen
        ),
    ]


def render() -> str:
    """Return dashboard.json."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
