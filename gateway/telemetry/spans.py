"""Spans: where the time of a request or a delivery goes. They cost a look-up each while nobody traces.

A root span is begun where work comes in, with the tracer of the process; whatever happens inside adds spans of its own
without knowing of it. What a span says is named here and nowhere else taken from requests: no address, no query, no
id, no text of an exception.

`traceparent` (W3C Trace Context) is passed on either way: ours if there is a trace, else the caller's.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final, Literal, Protocol, TypeAlias

Kind = Literal["internal", "server", "client", "producer"]
Attributes: TypeAlias = Mapping[str, str | int | float | bool]

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class Span(Protocol):
    """A stretch of time, and what it was about."""

    def set(self, attributes: Attributes) -> None:
        """Say more of it."""

    def name(self, name: str) -> None:
        """Call it something else, once that is known."""

    def fail(self, code: str) -> None:
        """Mark it as failed; `code` is one of ours."""


class Tracer(Protocol):
    """Where spans go."""

    def start(
        self, name: str, *, kind: Kind, attributes: Attributes, parent: str | None, is_root: bool
    ) -> AbstractContextManager[Span]:
        """Begin a span; `parent` is the `traceparent` that a root continues."""

    def traceparent(self) -> str:
        """Return what tells another process of the span that is open."""

    async def close(self) -> None:
        """Send what is left, for a second at most."""


class _Untraced:
    """A span that nobody sees."""

    def set(self, attributes: Attributes) -> None:
        """Do nothing."""

    def name(self, name: str) -> None:
        """Do nothing."""

    def fail(self, code: str) -> None:
        """Do nothing."""


_UNTRACED: Final[AbstractContextManager[Span]] = nullcontext(_Untraced())
_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
_callers: ContextVar[str | None] = ContextVar("traceparent", default=None)


def root(
    tracer: Tracer | None, name: str, *, kind: Kind, traceparent: str | None = None
) -> AbstractContextManager[Span]:
    """Begin a trace, or go on with a caller's. Without a tracer there are no spans inside."""
    parent = traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None
    if tracer is None and parent is None and _tracer.get() is None and _callers.get() is None:
        return _UNTRACED  # nothing to carry inside, and nothing from outside to hide
    return _carried(tracer, name, kind, parent)


@contextmanager
def _carried(tracer: Tracer | None, name: str, kind: Kind, parent: str | None) -> Iterator[Span]:
    tokens = _tracer.set(tracer), _callers.set(parent)
    started = _UNTRACED if tracer is None else tracer.start(name, kind=kind, attributes={}, parent=parent, is_root=True)
    try:
        with started as opened:
            yield opened
    finally:
        _tracer.reset(tokens[0])
        _callers.reset(tokens[1])


def span(name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> AbstractContextManager[Span]:
    """Begin a span in the trace of the current task, if there is one."""
    tracer = _tracer.get()
    if tracer is None:
        return _UNTRACED
    return tracer.start(name, kind=kind, attributes=attributes or {}, parent=None, is_root=False)


def traceparent() -> str | None:
    """Return what to tell another process of the current trace, if there is one."""
    tracer = _tracer.get()
    return _callers.get() if tracer is None else tracer.traceparent()


def trace_id() -> str | None:
    """Name the trace that is recorded here, for the log; None where nobody traces."""
    tracer = _tracer.get()
    return None if tracer is None else tracer.traceparent().split("-")[1]
