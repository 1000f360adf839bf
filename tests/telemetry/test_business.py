"""What the merchant holds, as gauges."""

from decimal import Decimal

import pytest

from gateway.clock import SystemClock
from gateway.telemetry.business import Holdings
from gateway.telemetry.metrics import MOST_COINS, Metrics


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def holdings(metrics):
    return Holdings(metrics=metrics, clock=SystemClock())


def test_the_last_that_was_fetched_is_shown(metrics, holdings):
    value = metrics.registry.get_sample_value
    assert value("quantapay_credit_balance", {"currency": "usd"}) is None
    for amount in ("1.5", "-0.25"):
        holdings.show_credit("get-credit-balance", Decimal(amount), currency="usd")
        holdings.show_balances("get-balances", [("btc", Decimal(amount), Decimal(7))], currency="eur")
    assert value("quantapay_credit_balance", {"currency": "usd"}) == -0.25
    assert value("quantapay_balance", {"cryptocurrency": "btc"}) == -0.25
    assert value("quantapay_balance_fiat", {"cryptocurrency": "btc", "currency": "eur"}) == 7
    for function in ("get-balances", "get-credit-balance"):
        shown = value("quantapay_balance_timestamp_seconds", {"function": function})
        assert shown == pytest.approx(SystemClock().time(), abs=60)


def test_a_currency_that_quantapay_does_not_say_is_unknown(metrics, holdings):
    holdings.show_balances("get-balances", [("btc", Decimal(1), Decimal(7))], currency=None)
    labels = {"cryptocurrency": "btc", "currency": "unknown"}
    assert metrics.registry.get_sample_value("quantapay_balance_fiat", labels) == 7


def test_coins_beyond_the_bound_are_not_shown_and_those_within_go_on(metrics, holdings):
    rows = [(f"coin{number}", Decimal(number), Decimal(0)) for number in range(MOST_COINS + 3)]
    holdings.show_balances("get-balances", rows, currency="usd")
    holdings.show_balances(
        "get-balances", [("coin0", Decimal(8), Decimal(0)), ("late", Decimal(1), Decimal(0))], currency="usd"
    )
    shown = [sample.labels["cryptocurrency"] for sample in metrics.balance.collect()[0].samples]
    assert len(shown) == MOST_COINS
    assert "late" not in shown
    assert metrics.registry.get_sample_value("quantapay_balance", {"cryptocurrency": "coin0"}) == 8
