"""docs/metrics.md, made from the metrics as they are declared: `python -m gateway.telemetry.reference` writes it."""

from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import Series

PAGE = Path("docs/metrics.md")

_HEAD = """\
# Metrics

<!-- Made from the code by `python -m gateway.telemetry.reference`; do not edit. -->

Served at `/metrics` on the operators' listener (`GATEWAY_OPS_PORT`), summed over the workers of a replica. No label
holds a key, an address, an id of a payment or free text, so the number of series stays bounded. `route` is a template
such as `/transactions/{id}`, or `unmatched`. Label sets that are known beforehand start at 0.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""


def render() -> str:
    """Return docs/metrics.md."""
    found = [value.metric if isinstance(value, Series) else value for value in vars(Metrics()).values()]
    declared = [value for value in found if isinstance(value, MetricWrapperBase)]
    return _HEAD + "".join(_row(metric) for metric in declared)


def _row(metric: MetricWrapperBase) -> str:
    [family] = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"  # noqa: SLF001 - has no public name
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"


if __name__ == "__main__":  # pragma: no cover - for people; the test calls render
    PAGE.write_text(render(), encoding="utf-8")
