"""`keys`: making keys for callers."""

from typing import Annotated

import typer
import yaml

from gateway.clock import SystemClock
from gateway.config.fields import ID
from gateway.config.keys import new_publishable_key, new_secret_key, sha256_hex

app = typer.Typer(no_args_is_help=True, help="Keys for the gateway's callers.")


@app.callback()
def keys() -> None:
    """Keep `new` a command of its own, as it is the only one so far."""


@app.command()
def new(
    client: Annotated[str, typer.Option(help="The client's id in gateway.yaml.", metavar="ID")],
    publishable: Annotated[bool, typer.Option("--publishable", help="A key that may stand in a web page.")] = False,
) -> None:
    """Make a key, print it once, and the lines for gateway.yaml.

    \b
    Examples:
      quantapay-gateway keys new --client orders
      quantapay-gateway keys new --client storefront --publishable
    """
    if not ID.fullmatch(client):
        raise typer.BadParameter("expected lower-case letters, digits and hyphens", param_hint="--client")
    clock = SystemClock()
    if publishable:
        key = new_publishable_key(clock)
        entry = {"publishable_key": key, "origins": ["https://shop.example"], "scopes": ["rates:read"]}
    else:
        key = new_secret_key(clock).get_secret_value()
        entry = {"key_sha256": sha256_hex(key), "scopes": ["balances:read"]}
        typer.echo("The key, shown this once. Give it to the client, keep it nowhere else:\n", err=True)
    typer.echo(key)
    typer.echo(
        "\nFor gateway.yaml, which holds only the hash:\n" if not publishable else "\nFor gateway.yaml:\n", err=True
    )
    typer.echo(yaml.safe_dump({"clients": [{"id": client, **entry}]}, sort_keys=False))
