"""Exact amounts: decimal texts in, decimal texts out, never a binary float in between."""

from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache

from iso4217 import Currency

UNLISTED_DECIMALS = 8
"""Decimals for a currency code ISO 4217 does not list, or lists without a minor unit."""

_WIDE = Context(prec=80)
"""More digits than any product of two bounded amounts can have, so nothing rounds before we say so."""


@lru_cache(maxsize=512)
def decimals_of(currency: str) -> int:
    """Return how many decimals a currency's amounts have: 2 for `usd`, 0 for `jpy`, 8 if unlisted."""
    try:
        exponent = Currency(currency.upper()).exponent
    except ValueError:
        return UNLISTED_DECIMALS
    return UNLISTED_DECIMALS if exponent is None else int(exponent)


def plain(amount: Decimal) -> str:
    """Write an amount with the digits it came with and no exponent: `Decimal("1.0E-5")` is `"0.000010"`."""
    return format(amount, "f")


def value_in(currency: str, *, amount: Decimal, rate: Decimal) -> Decimal:
    """Return `amount` × `rate`, rounded half up to the currency's decimals (`rate`: fiat per one coin)."""
    product = _WIDE.multiply(amount, rate)
    return product.quantize(Decimal(1).scaleb(-decimals_of(currency)), rounding=ROUND_HALF_UP, context=_WIDE)
