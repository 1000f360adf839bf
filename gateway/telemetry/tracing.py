"""Traces by OpenTelemetry, if the extra `otel` is installed and an `OTEL_*` variable says where they go.

The SDK reads the variables of its specification itself: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, `OTEL_SERVICE_NAME`,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`.
"""

from collections.abc import Mapping
from importlib.util import find_spec

import structlog

from gateway.telemetry.spans import Tracer

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def open_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """Return the tracer that this process is to use; None if it is not to trace."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if is_off or not any(environ.get(name) for name in _ENDPOINTS):
        return None
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        log.warning("no traces: they need `pip install 'quantapay-gateway[otel]'`")
        return None
    # Imported only now: it takes a tenth of a second, and most processes do not trace.
    from gateway.telemetry.opentelemetry import OpenTelemetryTracer  # noqa: PLC0415

    return OpenTelemetryTracer.exporting()
