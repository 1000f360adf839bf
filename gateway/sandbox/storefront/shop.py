"""The shop's server: it knows its prices and its orders, signs quotes for them, and believes only its own prices."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

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

OrderStatus: TypeAlias = Literal["open", "underpaid", "needs_review", "paid", "refunded"]
"""As of a checkout session (interface §3.5): it moves only forward, in this order."""
_STATUSES: Sequence[OrderStatus] = get_args(OrderStatus)


@dataclass(frozen=True, slots=True)
class Order:
    """Something that somebody wants to buy."""

    id: str
    product: Product
    status: OrderStatus = "open"


class Shop:
    """Sells one lamp an order. The price comes from here and never from the browser."""

    def __init__(self, options: StorefrontOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._orders: OrderedDict[str, Order] = OrderedDict()

    def orders(self) -> list[Order]:
        """Return the orders, oldest first."""
        return list(self._orders.values())

    def open_order(self) -> str:
        """Return the id of a new order."""
        order_id = f"LAMP-{self._clock.token_hex(4).upper()}"
        self._orders[order_id] = Order(order_id, LAMP)
        if len(self._orders) > _MOST_ORDERS:
            self._orders.popitem(last=False)
        return order_id

    def quote(self, order_id: str) -> dict[str, Any] | None:
        """Return a fresh quote for an order, as the gateway takes it (interface §3.5); None for an order not ours."""
        order = self._orders.get(order_id)
        if order is None:
            return None
        product = order.product
        timestamp = int(self._clock.time())
        quote = Quote(self._options.client_id, product.price, product.currency, order_id, timestamp)
        signed = asdict(quote) | {"signature": sign(quote, self._options.quote_secret)}
        del signed["client_id"]  # the gateway knows it by the publishable key
        return signed

    def learn(self, event: Mapping[str, Any]) -> Order | None:
        """Return the order that an event (interface §3.8) is about, moved forward; None if it is not ours.

        An order is what its session is, if that asked for the order's own price: the gateway says only that the session
        was paid, and whoever started it could have asked for less.
        """
        session = event["data"]["checkout_session"]
        order = None if session is None else self._orders.get(session["order_id"])
        if session is None or order is None:
            return None
        is_right = (session["price"], session["currency"]) == (order.product.price, order.product.currency)
        status: OrderStatus = session["status"] if is_right else "needs_review"
        moved = replace(order, status=max(order.status, status, key=_STATUSES.index))
        self._orders[order.id] = moved
        return moved
