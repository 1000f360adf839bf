"""Retries: only where a second sending cannot do harm, and never so many that they prolong an outage."""

from gateway.clock import Clock
from gateway.errors import UpstreamError, UpstreamInvalidResponse, UpstreamUnavailable
from gateway.quantapay.guard.guard import BreakerOpen

MOST = 2
"""Retries of one call."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds: the most that is waited before the first retry, doubled for each further one, and where that ends."""

RETRY = 5
"""The price of a retry, counted in what one call pays in: retries are at most a fifth of the calls ..."""
AT_START, AT_MOST = 3 * RETRY, 10 * RETRY
"""... and these few more."""


def is_worth_retrying(error: UpstreamError, *, repeatable: bool) -> bool:
    """Tell whether another attempt may go better, and can do no harm.

    Without a connection nothing was sent, so anything may be tried again. An answer that was cut off or is none
    may follow a call that was carried out, so only what is repeatable is. Never after a refusal, which stands, nor
    after whatever asks for fewer calls, nor after a timeout, which has used the time up.
    """
    if isinstance(error, UpstreamUnavailable):
        return not isinstance(error, BreakerOpen)
    return repeatable and isinstance(error, UpstreamInvalidResponse)


class Retries:
    """The retry budget of one process: calls pay in, retries are paid from it.

    While all is well it is full. When nothing works it is soon empty, and QuantaPay sees at most 1.2 times the
    calls it would see without retries.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._saved = AT_START

    def pay_in(self) -> None:
        """Count a call of a caller, however many attempts it will take."""
        self._saved = min(self._saved + 1, AT_MOST)

    def pause_before(self, retry: int, *, left: float) -> float | None:
        """Pay for a call's `retry`th retry (from 1) and return the seconds to wait before it (full jitter).

        None if there is to be none: it is one too many, the budget is empty, or of the call's deadline less is
        `left` (seconds) than the wait.
        """
        if retry > MOST or self._saved < RETRY:
            return None
        pause = self._clock.random() * min(FIRST_PAUSE * 2.0 ** (retry - 1), LONGEST_PAUSE)
        if pause >= left:
            return None
        self._saved -= RETRY
        return pause
