"""Judges PromQL by the names, labels and label values that the gateway's metrics have."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase

from gateway.quantapay.functions import FUNCTIONS
from gateway.telemetry.metrics import Metrics, Series

ROOT = Path(__file__).parents[2]
TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to whatever it scrapes."""
_SUFFIXES = {"counter": {"_total": set()}, "histogram": {"_bucket": {"le"}, "_count": set(), "_sum": set()}}
_SELECTOR = re.compile(
    r"""(?<![\w:$.])(?P<name>[a-z_:][a-z0-9_:]*_[a-z0-9_:]+|up)\b(?!\s*\()(?P<matchers>\{(?:[^}"]|"[^"]*")*\})?"""
)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Known:
    """Metrics of the code, as Prometheus stores them."""

    labels: dict[str, set[str]] = field(default_factory=lambda: {"up": set()})
    """Name → labels."""
    values: dict[str, set[str]] = field(default_factory=dict)
    """Label → values that are there from the start."""

    def selectors(self, query: str) -> list[str]:
        """Return what a query reads, such as `up{job="a"}`. Recording rules are left out."""
        return [found[0] for found in self._selectors(query) if ":" not in found["name"]]

    def faults(self, query: str) -> list[str]:
        """Name what a query uses that no metric of the code has."""
        faults, usable = [], set(TARGET_LABELS)
        for found in self._selectors(query):
            name = found["name"]
            if ":" in name:
                continue
            if name not in self.labels:
                faults.append(f"no metric {name}")
                continue
            usable |= self.labels[name]
            for label, operator, text in _MATCHER.findall(found["matchers"] or ""):
                if label not in self.labels[name] | TARGET_LABELS:
                    faults.append(f"no label {label} of {name}")
                elif label in self.values:
                    wanted = text.split("|") if "~" in operator else [text]
                    faults += [f"no value {value} of {label}" for value in wanted if value not in self.values[label]]
        grouped = {label.strip() for labels in _GROUPING.findall(query) for label in labels.split(",") if label.strip()}
        return faults + [f"no label {label} to group by" for label in grouped - usable - {"alertname"}]

    def _selectors(self, query: str) -> list[re.Match[str]]:
        bare = re.sub(r"\$__\w+", "1m", _GROUPING.sub("", query))
        return list(_SELECTOR.finditer(bare))


@cache
def known() -> Known:
    """Return what the code declares."""
    metrics = Metrics()
    metrics.name_functions(function.name for function in FUNCTIONS)
    metrics.name_reads(function.name for function in FUNCTIONS)
    metrics.name_subscribers(["orders"])
    found = Known()
    for declared in vars(metrics).values():
        metric = declared.metric if isinstance(declared, Series) else declared
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            for suffix, more in _SUFFIXES.get(family.type, {"": set()}).items():
                found.labels[family.name + suffix] = {*metric._labelnames, *more}
    for family in metrics.registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                found.values.setdefault(label, set()).add(value)
    specification = yaml.safe_load((ROOT / "openapi" / "openapi.yaml").read_text(encoding="utf-8"))
    served = {path.replace("{", "[{]").replace("}", "[}]") for path in specification["paths"]}
    patterns = {".*/events", "/docs.*", "/problems/.*", "/sdk/.*", "/openapi.json"}
    found.values["route"] = {*served, *patterns, "unmatched"}
    found.values["le"] = {str(float(bound)) for bound in metrics.http_request_duration.metric._upper_bounds}
    return found
