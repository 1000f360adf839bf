"""Traces by OpenTelemetry, if the extra `otel` is installed and an `OTEL_*` variable says where they go.

The SDK reads the variables of its specification itself: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, `OTEL_SERVICE_NAME`,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`. A fault in them costs the traces, never the gateway.
"""

from collections.abc import Mapping

import structlog

from gateway.telemetry.spans import Tracer

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER, _NO_EXPORTER = "otlp", "none"


def open_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """Return the tracer that this process is to use; None if it is not to trace, or cannot."""
    if not _is_wanted(environ):
        return None
    try:
        # Imported only now: it takes a tenth of a second, and most processes do not trace.
        from gateway.telemetry.opentelemetry import OpenTelemetryTracer  # noqa: PLC0415
    except ImportError:  # all of the extra is missing, or a part of it
        log.warning("no traces: they need `pip install 'quantapay-gateway[otel]'`")
        return None
    try:
        return OpenTelemetryTracer.exporting()
    except ValueError:  # its text stays out: it may quote a variable, and some hold keys
        log.error("no traces: a variable OTEL_* has a value that the SDK refuses")  # noqa: TRY400
        return None


def _is_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter in {_EXPORTER, _NO_EXPORTER}:
        return exporter == _EXPORTER
    if exporter:
        log.warning("no traces: OTEL_TRACES_EXPORTER can be `otlp` or `none`")
        return False
    return any(environ.get(name) for name in _ENDPOINTS)
