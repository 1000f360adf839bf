"""Structured logs: one line a request, allow-listed fields, secrets taken out of everything.

What a line says of a request is collected in one record (`annotate`) and written once, at its end. Bugs are
logged by their type and frames alone: the text of an exception can hold whatever a caller sent (validation
errors print inputs, JSON errors hold documents), so it never reaches a log.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from json import JSONEncoder
from typing import Any, TextIO

import structlog
from pydantic import SecretStr
from pydantic_core import to_json

from gateway.telemetry.spans import trace_id

_log = structlog.get_logger()

_record: ContextVar[dict[str, object] | None] = ContextVar("request_record", default=None)

_TOKENS = re.compile(r"\b(qsk_|cst_|whsec_)[A-Za-z0-9_+/=-]{8,}")
_write_anything = JSONEncoder(default=str, separators=(",", ":")).encode
_PLAIN = frozenset({str, int, float, bool, type(None), datetime})
"""What pydantic's encoder writes as Python's does. Of a dataclass, it writes even what its repr keeps to itself."""
REDACTED = "[redacted]"


def open_record() -> dict[str, object]:
    """Start the record of the request that this task answers, and return it."""
    record: dict[str, object] = {}
    _record.set(record)
    return record


def annotate(**fields: object) -> None:
    """Add fields to the line of the current request; outside one, do nothing."""
    record = _record.get()
    if record is not None:
        record.update(fields)


def write_request(fields: dict[str, Any]) -> None:
    """Write the line of a request; `fields` are given away.

    As arguments of `log.info` they would be packed and unpacked three times, which takes as long as writing the line.
    """
    logger = _log.bind()
    if not isinstance(logger, _JsonLogger):
        logger.info("request", **fields)
    elif logger.writes_requests:
        fields["event"] = "request"
        logger.write("info", fields)


def frames_of(error: BaseException) -> list[str]:
    """Return where an exception came from, as `module.py:line function`, innermost last; no texts, no locals."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]


class Redactor:
    """Takes key-like tokens and the configured secrets out of every text of a line."""

    def __init__(self, secrets: Iterable[SecretStr]) -> None:
        # The longest first, as one may contain another.
        self._secrets = sorted({secret.get_secret_value() for secret in secrets} - {""}, key=len, reverse=True)

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Return the line with every text cleaned (a structlog processor)."""
        return {name: self._clean(value) for name, value in event.items()}

    def _clean(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, REDACTED)
            return _TOKENS.sub(REDACTED, value)
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        if isinstance(value, dict):
            return {self._clean(name): self._clean(item) for name, item in value.items()}
        return value if isinstance(value, (int, float, bool, type(None))) else self._clean(str(value))


def _write_json(value: object) -> str:
    """Return JSON in ASCII, in a third of the time that Python's own encoder takes.

    Raises `ValueError` for halves of characters, as names of files can have.
    """
    written = to_json(value)
    # Asked for ASCII, it takes half as long again, and next to all that is logged is ASCII.
    return (written if written.isascii() else to_json(value, ensure_ascii=True)).decode()


def _escaped(text: str) -> str:
    """Return a text as it looks inside a line; nothing for halves of characters, whose line is always cleaned."""
    try:
        return _write_json(text)[1:-1]
    except ValueError:
        return ""


class JsonLine:
    """Writes a line as JSON, dated and cleaned: all that structlog is asked to do with it.

    Cleaning every text takes longer than writing the JSON, and there is next to never anything to take out. So the
    finished line is searched first.
    """

    def __init__(self, redactor: Redactor, secrets: Iterable[SecretStr]) -> None:
        self._redactor = redactor
        # As they would look inside a line: JSON escapes each character by itself.
        escaped = {_escaped(secret.get_secret_value()) for secret in secrets}
        self._suspicious = sorted(escaped - {""} | {"qsk_", "cst_", "whsec_"})

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        """Return the line."""
        now = event["timestamp"] = datetime.now(UTC)
        event["level"] = method
        event = _name_trace(logger, method, event)
        if not _PLAIN.issuperset(map(type, event.values())):
            return self._cleaned(event, now)
        try:
            line = _write_json(event)
        except ValueError:
            return self._cleaned(event, now)
        for text in self._suspicious:
            if text in line:
                return self._cleaned(event, now)
        return line

    def _cleaned(self, event: MutableMapping[str, Any], now: datetime) -> str:
        event["timestamp"] = now.isoformat().replace("+00:00", "Z")
        return _write_anything(self._redactor(None, "", event))


class _JsonLogger(structlog.BoundLoggerBase):
    """structlog's logger where one processor does it all, and fields are handed on once: half of what a line costs."""

    writes_requests: bool

    def write(self, level: str, fields: dict[str, Any]) -> None:
        """Write a line at `level`, whatever the threshold."""
        [line] = self._processors
        try:
            text = line(self._logger, level, fields)
        except structlog.DropEvent:  # as `structlog.testing` does
            return
        self._logger.msg(text)

    def _proxy_to_logger(self, level: str, event: str | None = None, /, **fields: object) -> None:  # type: ignore[override]  # fields may have any name
        self.write(level, {**fields, "event": event})


def _json_logger(threshold: int) -> type[_JsonLogger]:
    kinds = _JsonLogger, structlog.make_filtering_bound_logger(threshold)
    return type("JsonLogger", kinds, {"writes_requests": threshold <= logging.INFO})


class _FileWriter:
    """Hands lines to the kernel itself: through Python's text and its buffer they take 5 µs longer.

    A line that cannot be written is lost. Whoever logs has other work to do, and must not end because the disk is full,
    or because somebody else made a pipe that both share non-blocking.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._is_torn = False
        """Whether the last line was lost in its middle."""

    def msg(self, line: str) -> None:
        """Write a line, in one piece unless the disk is full."""
        whole = rest = (f"\n{line}\n" if self._is_torn else f"{line}\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._is_torn = self._is_torn or len(rest) < len(whole)
        else:
            self._is_torn = False


def _writer(stream: TextIO) -> Callable[..., Any]:
    try:
        file = stream.fileno()
    except OSError:  # it is in memory
        return structlog.WriteLoggerFactory(stream)
    writer = _FileWriter(file)
    return lambda *_: writer


def configure(
    *, level: str, json: bool, secrets: Collection[SecretStr], stream: TextIO | None = None, for_good: bool = False
) -> None:
    """Send our log lines, and warnings of the libraries we use, to `stream` (standard output) as one format.

    `for_good`: loggers keep what they find when they are first used, which saves a quarter of what a line costs.
    """
    out = stream or sys.stdout
    redactor = Redactor(secrets)
    for_people: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_trace,
        redactor,
        structlog.dev.ConsoleRenderer(colors=out.isatty(), sort_keys=False, pad_event_to=8),
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[JsonLine(redactor, secrets)] if json else for_people,
        wrapper_class=_json_logger(threshold) if json else structlog.make_filtering_bound_logger(threshold),
        # A line and its end in one write: workers share the stream, and `print` would let another line in between.
        logger_factory=_writer(out) if json else structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=for_good,
    )
    handler = _LibraryHandler()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _name_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the trace that a line belongs to, if there is one (a structlog processor)."""
    if (trace := trace_id()) is not None:
        event["trace_id"] = trace
    return event


class _LibraryHandler(logging.Handler):
    """Passes on what libraries log: who, where and what kind, never the formatted text (it may hold inputs)."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        error = record.exc_info[1] if record.exc_info else None
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            template=str(record.msg) if record.args else None,
            where=f"{record.filename}:{record.lineno}",
            error=type(error).__name__ if error else None,
            frames=frames_of(error) if error else None,
        )
