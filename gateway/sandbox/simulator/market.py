"""A market that never moves: the same question always gets the same number."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

_USD_PER_COIN = {
    "btc": Decimal("64850.25"),
    "eth": Decimal("3700.00"),
    "usdt": Decimal("1.00"),
    "usdt_tron": Decimal("1.00"),
    "usdc": Decimal("1.00"),
    "bnb": Decimal("585.40"),
    "sol": Decimal("152.75"),
    "xrp": Decimal("0.5234"),
    "ltc": Decimal("82.15"),
    "doge": Decimal("0.1487"),
    "trx": Decimal("0.1215"),
}
_FIAT_PER_USD = {
    "usd": Decimal(1),
    "eur": Decimal("0.92"),
    "gbp": Decimal("0.79"),
    "chf": Decimal("0.90"),
    "cad": Decimal("1.37"),
    "aud": Decimal("1.52"),
    "brl": Decimal("5.05"),
    "jpy": Decimal("151.20"),
    "kwd": Decimal("0.307"),
}
_HOLDINGS = {"btc": Decimal("0.1"), "eth": Decimal("2.5"), "usdt": Decimal("1250.50")}

COINS = tuple(_USD_PER_COIN)
"""The coins that can be paid with and have a rate; a few of those in contract §6.10."""


def rate(cryptocurrency: str, currency: str) -> Decimal | None:
    """Return the price of one coin in a fiat currency, case aside; None for a pair without a rate."""
    dollars = _USD_PER_COIN.get(cryptocurrency.lower())
    factor = _FIAT_PER_USD.get(currency.lower())
    if dollars is None or factor is None:
        return None
    price = dollars * factor
    return _rounded(price, 2 if price >= 1 else 8)


def coins_for(price: Decimal, *, cryptocurrency: str, currency: str) -> Decimal | None:
    """Return how many coins a fiat price is, to 8 decimals; None for a pair without a rate."""
    per_coin = rate(cryptocurrency, currency)
    return None if per_coin is None else _rounded(price / per_coin, 8)


def fiat_value(amount: Decimal, *, cryptocurrency: str, currency: str) -> Decimal | None:
    """Return what an amount of coins is worth, to 2 decimals as Boxcoin does; None for a pair without a rate."""
    per_coin = rate(cryptocurrency, currency)
    return None if per_coin is None else _rounded(amount * per_coin, 2)


def balances() -> dict[str, dict[str, str]]:
    """Return the merchant's coins in the documented shape (contract §6.6), valued in USD."""
    return {
        coin: {"amount": format(amount, "f"), "fiat": format(_rounded(amount * _USD_PER_COIN[coin], 2), "f")}
        for coin, amount in _HOLDINGS.items()
    }


def _rounded(amount: Decimal, decimals: int) -> Decimal:
    with localcontext() as context:
        context.prec = 80
        return amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
