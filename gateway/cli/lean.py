"""Imports without what libraries bring along if they find it installed, and the gateway never uses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = (
    "httpx._main",  # httpx's command line, which imports click, pygments and much of rich
    "rich",  # structlog's tracebacks in colours, where ours are frames alone; with the one before 3.7 MB and 75 modules
    "opentelemetry.sdk.metrics",  # redis-py's metrics, which are off: 1.2 MB and 40 modules
    "pydantic.v1",  # FastAPI looks whether a model is an old one, and ours are none: 1.6 MB, 23 modules, 49 ms
)


@contextmanager
def lean_imports() -> Iterator[None]:
    """Have imports of `UNUSED` fail in this block, as if they were not installed; each library copes with that."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python says: not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
