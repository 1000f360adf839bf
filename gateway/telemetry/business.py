"""What the merchant holds, as gauges: taken from answers that callers asked for, never from a call of its own."""

from collections.abc import Iterable
from decimal import Decimal

from gateway.clock import Clock
from gateway.telemetry.metrics import MOST_COINS, Metrics

UNKNOWN_CURRENCY = "unknown"
"""Stands for the account's currency where QuantaPay does not say it."""


class Holdings:
    """Shows the merchant's balances and credits as last fetched. Codes are validated ones, in lower case."""

    def __init__(self, *, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._named_coins: set[str] = set()

    def show_balances(
        self, function: str, balances: Iterable[tuple[str, Decimal, Decimal]], *, currency: str | None
    ) -> None:
        """Show coins as QuantaPay's `function` gave them: each a code, the amount and its value in `currency`.

        A coin that the account lists no more keeps its last value.
        """
        for coin, amount, fiat_value in balances:
            if not self._may_name(coin):
                continue
            self._metrics.balance.labels(cryptocurrency=coin).set(float(amount))
            fiat = self._metrics.balance_fiat.labels(cryptocurrency=coin, currency=currency or UNKNOWN_CURRENCY)
            fiat.set(float(fiat_value))
        self._note_time(function)

    def show_credit(self, function: str, amount: Decimal, *, currency: str) -> None:
        """Show the credits, which may be negative, as QuantaPay's `function` gave them."""
        self._metrics.credit_balance.labels(currency=currency).set(float(amount))
        self._note_time(function)

    def _may_name(self, coin: str) -> bool:
        if len(self._named_coins) < MOST_COINS:
            self._named_coins.add(coin)
        return coin in self._named_coins

    def _note_time(self, function: str) -> None:
        self._metrics.balance_timestamp.labels(function=function).set(self._clock.time())
