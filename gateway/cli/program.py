"""The program: its options and its commands."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import SecretStr

from gateway import __version__
from gateway.app import Gateway
from gateway.cli import config, keys, quote, sandbox, serve, webhooks
from gateway.settings import Settings
from gateway.store.client import connect

app = typer.Typer(
    name="quantapay-gateway",
    help="A REST front door for QuantaPay: typed errors, one place for the key, rate limits, metrics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print locals, and locals hold secrets
)
app.command()(serve.serve)
app.command(hidden=True)(serve.worker)
app.command()(sandbox.sandbox)
app.command()(sandbox.simulator)
app.add_typer(keys.app, name="keys")
app.command()(quote.quote)
app.add_typer(config.app, name="config")
app.add_typer(webhooks.app, name="webhooks")


def main() -> None:
    """Run the program."""
    app()


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


@app.command()
def openapi() -> None:
    """Print the specification (OpenAPI 3.1, YAML).

    \b
    Example:
      quantapay-gateway openapi > openapi.yaml
    """
    settings = Settings(quantapay_api_key=SecretStr("none"), config=Path(os.devnull))
    document = Gateway(settings, redis=connect("redis://localhost")).specification()
    sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
