"""`pay.php`: the hosted page where a customer would pay (contract §6.1).

Like the real one it believes its address: whoever edits `price` or `external_reference` there pays that.
"""

import base64
import hashlib
import html
import re
from decimal import Decimal
from importlib.resources import files
from string import Template
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.sandbox.simulator import market
from gateway.sandbox.simulator.state import Order
from gateway.sandbox.simulator.world import World

_STYLE = files("gateway.sandbox.simulator").joinpath("pay_page.css").read_text(encoding="utf-8")
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="soft">This is a simulation. No money moves.</p>
$content
</main>
</body>
</html>
""")
_CHECKOUT = Template("""<dl>
<div><dt>Price</dt><dd>$price $currency</dd></div>
<div><dt>Order</dt><dd>$reference</dd></div>
</dl>
<form method="post">
<label>Pay with <select name="cryptocurrency">$coins</select></label>
<button name="action" value="pay">Pay in full</button>
<button name="action" value="underpay">Pay too little</button>
<button name="action" value="leave">Leave</button>
</form>
<p class="soft">Price and order come from this page’s address, as on the real one. Edit them there to see what the shop
makes of it.</p>""")
_PAID = Template("""<p role="status">Payment seen: $amount $coin. It is pending as transaction $id
and will be $outcome in $seconds s.</p>
<p class="soft">You can close this page: the shop’s page follows by itself.
<a href="?$query">Back to the checkout</a></p>""")
_LEFT = Template("""<p role="status">Nothing was paid.</p>
<p class="soft">You can close this page, or go <a href="?$query">back to the checkout</a>.</p>""")

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,8})?", re.ASCII)


class PayPage:
    """The page over one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: Request) -> Response:
        """Show what is to be paid, and the ways to do it."""
        order = self._order(request)
        if order is None:
            return _not_found()
        content = _CHECKOUT.substitute(
            price=html.escape(format(order.price, "f")),
            currency=html.escape(order.currency.upper()),
            reference=html.escape(order.reference or "none"),
            coins="".join(f"<option>{coin}</option>" for coin in market.COINS),
        )
        return _page("Checkout", content)

    async def act(self, request: Request) -> Response:
        """Do what a button says: `action` is `pay`, `underpay` or `leave`; `cryptocurrency` is `btc` if absent."""
        order = self._order(request)
        if order is None:
            return _not_found()
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        match form.get("action"):
            case "pay" | "underpay" as action:
                coin = form.get("cryptocurrency", "btc").lower()
                return self._pay(request, order, coin=coin, underpaid=action == "underpay")
            case "leave":
                return _page("Checkout left", _LEFT.substitute(query=html.escape(request.url.query)))
            case _:
                return _page("Nothing done", "<p>The action must be pay, underpay or leave.</p>", status=400)

    def _pay(self, request: Request, order: Order, *, coin: str, underpaid: bool) -> Response:
        row = self._world.ledger.pay(order, cryptocurrency=coin, ends="X" if underpaid else "C")
        if row is None:
            return _page("Nothing paid", "<p>There is no rate for this coin and currency.</p>", status=400)
        content = _PAID.substitute(
            amount=row["amount"],
            coin=row["cryptocurrency"],
            id=row["id"],
            outcome="underpaid" if underpaid else "completed",
            seconds=f"{self._world.options.completes_after:g}",
            query=html.escape(request.url.query),
        )
        return _page("Payment seen", content)

    def _order(self, request: Request) -> Order | None:
        """Read the order from the address; only what no address holds comes from the session."""
        address = request.query_params
        session = self._world.ledger.session(address.get("checkout_id", "").removeprefix("cs-"))
        price = address.get("price", "")
        if session is None or not _PRICE.fullmatch(price) or not Decimal(price):
            return None
        return Order(
            price=Decimal(price),
            currency=address.get("currency", session.order.currency),
            reference=address.get("external_reference", ""),
            title=session.order.title,
            description=session.order.description,
        )


def _not_found() -> Response:
    return _page("Checkout not found", "<p>This address leads to no checkout.</p>", status=404)


def _page(title: str, content: str, *, status: int = 200) -> Response:
    page = _PAGE.substitute(title=title, style=_STYLE, content=content)
    return HTMLResponse(page, status_code=status, headers=_HEADERS)
