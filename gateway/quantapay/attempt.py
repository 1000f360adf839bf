"""One attempt at a call, and how far it got."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Attempt:
    """Filled in on the way down to the socket; read on the way back by whoever must know what may have happened."""

    is_retry: bool = False
    """An attempt at the same call failed before."""
    started: float | None = None
    """When it was handed to the transport, on the monotonic clock. None: it was refused, or waits its turn."""
    sent: bool = False
    """The transport has begun to take the form: from here on it may have arrived."""
    status: int | None = None
    """The answer's HTTP status, once its headers were there."""
    on_sent: Callable[[], None] = field(default=lambda: None, repr=False)
    """Called when `sent` turns true, which is long before a slow function answers."""

    def note_sent(self) -> None:
        """Say that the transport takes the form now."""
        self.sent = True
        self.on_sent()
