"""The program: its options and its commands."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway import __version__
from gateway.cli.lazy import LazyCommand

COMMANDS = (
    LazyCommand(
        "serve", "gateway.cli.serve:serve", help="Run the gateway, from environment variables and gateway.yaml."
    ),
    LazyCommand(
        "worker",
        "gateway.cli.serve:worker",
        help="Serve as one of several workers; `serve` starts these.",
        hidden=True,
    ),
    LazyCommand(
        "sandbox",
        "gateway.cli.sandbox:sandbox",
        help="Run everything on this machine: gateway, QuantaPay simulator, shop, Valkey. Needs no key and no account.",
    ),
    LazyCommand("simulator", "gateway.cli.sandbox:simulator", help="Run the QuantaPay simulator alone."),
    LazyCommand(
        "quote",
        "gateway.cli.quote:quote",
        help="Sign an order with a client's quote secret and print it, ready to be sent by a browser.",
    ),
    LazyCommand("openapi", "gateway.cli.openapi:openapi", help="Print the specification (OpenAPI 3.1, YAML)."),
    LazyCommand("keys", "gateway.cli.keys:app", help="Keys for the gateway's callers."),
    LazyCommand("config", "gateway.cli.config:app", help="The gateway's own configuration."),
    LazyCommand(
        "webhooks",
        "gateway.cli.webhooks:app",
        help="Payment events that subscribers did not take (dead letters), kept for 90 days.",
    ),
)
"""In the order of `--help`. A test compares each text with what the command says of itself."""


class _Program(TyperGroup):
    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - whatever typer gives
        super().__init__(**attributes)
        for command in COMMANDS:
            self.add_command(command)


app = typer.Typer(
    name="quantapay-gateway",
    cls=_Program,
    help="A REST front door for QuantaPay: typed errors, one place for the key, rate limits, metrics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print locals, and locals hold secrets
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of the program itself."""
