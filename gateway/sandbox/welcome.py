"""What the sandbox says when it is up: where everything is, and commands that work when pasted."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.panel import Panel
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Welcome:
    """Where everything is. The URLs have no final slash."""

    gateway: str
    ops: str
    simulator: str
    storefront: str
    key: SecretStr
    """The key of the client `orders`."""
    publishable_key: str
    """The key of the client `storefront`; it stands in the shop's page."""
    config: Path | None


def commands(welcome: Welcome) -> list[tuple[str, str]]:
    """Return what to try, in order: a line of explanation, a line for the shell."""
    api, curl = welcome.gateway, "curl -sw '\\n'"
    auth = f'-H "Authorization: Bearer {welcome.key.get_secret_value()}"'
    json_body = "-H 'Content-Type: application/json'"
    create = f"{curl} {api}/checkout-sessions {auth} {json_body}"
    shop = f'-H "Authorization: Bearer {welcome.publishable_key}" -H "Origin: {welcome.storefront}"'
    buy = f"curl -s -X POST {welcome.storefront}/quote | {curl} {api}/checkout-sessions {shop} {json_body} -d @-"
    page = """sed 's/.*"payment_url":"\\([^"]*\\)".*/\\1/'"""
    return [
        ("What the merchant holds", f"{curl} {api}/balances {auth}"),
        ("What a coin is worth", f"{curl} '{api}/exchange-rates/btc?currency=eur' {auth}"),
        ("Start a payment, and open its payment_url in a browser", f"{create} -d '{_order('ORD-1')}'"),
        (
            "Or start another and pay it at once, as a customer would on its page",
            f"curl -s -o /dev/null -d action=pay \"$({create} -d '{_order('ORD-2')}' | {page})\"",
        ),
        ("See it: pending, and completed a few seconds later", f"{curl} '{api}/transactions?search=ORD-2' {auth}"),
        ("What a browser may do: only what the shop's server signed a quote for", buy),
        ("Pay for another order of the shop", f'curl -s -o /dev/null -d action=pay "$({buy} | {page})"'),
        (
            "See its orders: QuantaPay tells the gateway, the gateway tells the shop, a few seconds later",
            f"{curl} {welcome.storefront}/orders",
        ),
        ("A price that is none", f"{create} -d '{_order('ORD-3', price='1e3')}'"),
        ("What operators see", f"curl -s {welcome.ops}/metrics | grep ^quantapay_requests_total | grep -v ' 0.0'"),
    ]


def _order(order_id: str, *, price: str = "49.99") -> str:
    return json.dumps({"price": price, "currency": "usd", "order_id": order_id})


def greet(welcome: Welcome, console: Console | None = None) -> None:
    """Print it all. Commands are printed bare, without wrapping or markup, so that they survive copy and paste."""
    console = console or Console(highlight=False, soft_wrap=True)
    places = Table.grid(padding=(0, 2))
    places.add_column(style="bold")
    for what, where in (
        ("Storefront", f"{welcome.storefront}  ← open this in a browser"),
        ("Gateway", welcome.gateway),
        ("API reference", f"{welcome.gateway}/docs"),
        ("Status, metrics", f"{welcome.ops}/status /metrics"),
        ("QuantaPay, simulated", welcome.simulator),
        ("Its misbehaviour", f"{welcome.simulator}/simulator/scenarios"),
        ("Key of client orders", welcome.key.get_secret_value()),
        ("Configuration", str(welcome.config)),
    ):
        places.add_row(what, where)
    console.print()
    console.print(Panel(places, title="[bold]QuantaPay Gateway sandbox[/]", border_style="green", expand=False))
    console.print("Paste these into another terminal:\n")
    for what, command in commands(welcome):
        console.print(f"[green]# {what}[/]")
        console.print(command, markup=False, style=None)
        console.print()
    console.print("[dim]Ctrl-C stops everything. Requests appear below.[/]\n")
