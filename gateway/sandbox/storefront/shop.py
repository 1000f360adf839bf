"""The shop's server: it knows its prices and its orders, and signs quotes for them."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from gateway.access.quotes import Quote, sign
from gateway.clock import Clock
from gateway.sandbox.storefront.options import StorefrontOptions

_MOST_ORDERS = 1000
"""Held at once; a real shop keeps its orders in a database."""


@dataclass(frozen=True, slots=True)
class Product:
    """Something to buy. `price` is decimal text, `currency` an ISO 4217 code in lower case."""

    name: str
    price: str
    currency: str


LAMP = Product("Halo reading lamp", "49.99", "usd")


class Shop:
    """Sells one lamp an order. The price comes from here and never from the browser."""

    def __init__(self, options: StorefrontOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._orders: OrderedDict[str, Product] = OrderedDict()

    def open_order(self) -> str:
        """Return the id of a new order."""
        order_id = f"LAMP-{self._clock.token_hex(4).upper()}"
        self._orders[order_id] = LAMP
        if len(self._orders) > _MOST_ORDERS:
            self._orders.popitem(last=False)
        return order_id

    def quote(self, order_id: str) -> dict[str, Any] | None:
        """Return a fresh quote for an order, as the gateway takes it (interface §3.5); None for an order not ours."""
        product = self._orders.get(order_id)
        if product is None:
            return None
        timestamp = int(self._clock.time())
        quote = Quote(self._options.client_id, product.price, product.currency, order_id, timestamp)
        signed = asdict(quote) | {"signature": sign(quote, self._options.quote_secret)}
        del signed["client_id"]  # the gateway knows it by the publishable key
        return signed
