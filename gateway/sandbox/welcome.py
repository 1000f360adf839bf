"""What the sandbox says when it is up: where everything is, and commands that work when pasted."""

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
    key: SecretStr
    """The one ready-made key, of the client `orders`."""
    config: Path | None


def commands(welcome: Welcome) -> list[tuple[str, str]]:
    """Return what to try, in order: a line of explanation, a line for the shell."""
    api = welcome.gateway
    auth = f'-H "Authorization: Bearer {welcome.key.get_secret_value()}"'
    order = """-d '{"price": "49.99", "currency": "usd", "order_id": "ORD-1"}'"""
    create = f"curl -s {api}/checkout-sessions {auth} -H 'Content-Type: application/json' {order}"
    page = """sed 's/.*"payment_url":"\\([^"]*\\)".*/\\1/'"""
    return [
        ("What the merchant holds", f"curl -s {api}/balances {auth}"),
        ("What a coin is worth", f"curl -s '{api}/exchange-rates/btc?currency=eur' {auth}"),
        ("Start a payment", create),
        ("Pay it, as the customer would on that page", f'curl -s -o /dev/null -d action=pay "$({create} | {page})"'),
        ("See it: pending, and completed a few seconds later", f"curl -s '{api}/transactions?search=ORD-1' {auth}"),
        ("A price that is none", f"{create.replace('49.99', '1e3')}"),
        ("What operators see", f"curl -s {welcome.ops}/metrics | grep ^quantapay_requests_total | grep -v ' 0.0'"),
    ]


def greet(welcome: Welcome, console: Console | None = None) -> None:
    """Print it all. Commands are printed bare, without wrapping or markup, so that they survive copy and paste."""
    console = console or Console(highlight=False, soft_wrap=True)
    places = Table.grid(padding=(0, 2))
    places.add_column(style="bold")
    places.add_row("Gateway", f"{welcome.gateway}  [dim](API reference: {welcome.gateway}/docs)[/]")
    places.add_row("Operations", f"{welcome.ops}/status  [dim]and[/]  {welcome.ops}/metrics")
    places.add_row("QuantaPay, simulated", f"{welcome.simulator}  [dim](misbehaviour: /simulator/scenarios)[/]")
    places.add_row("Key of client orders", welcome.key.get_secret_value())
    places.add_row("Configuration", f"{welcome.config}  [dim](re-read when it changes)[/]")
    console.print()
    console.print(Panel(places, title="[bold]QuantaPay Gateway sandbox[/]", border_style="green", expand=False))
    console.print("Paste these into another terminal:\n")
    for what, command in commands(welcome):
        console.print(f"[green]# {what}[/]")
        console.print(command, markup=False, style=None)
        console.print()
    console.print("[dim]Ctrl-C stops everything. Requests appear below.[/]\n")
