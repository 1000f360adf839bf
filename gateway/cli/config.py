"""`config`: whether the configuration is good, and QuantaPay accepts it."""

from typing import Annotated

import typer
from pydantic import SecretStr

from gateway.cli.common import fail, refuse, run, settings_or_refuse
from gateway.config import check as faults_of_configuration
from gateway.errors import GatewayError
from gateway.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The gateway's own configuration.")


@app.callback()
def config() -> None:
    """Keep `check` a command of its own, as it is the only one so far."""


@app.command()
def check(
    probe: Annotated[bool, typer.Option("--probe", help="Also call QuantaPay once and compare clocks.")] = False,
) -> None:
    """Check environment and gateway.yaml: name every fault, print no secret.

    \b
    Examples:
      quantapay-gateway config check
      GATEWAY_CONFIG=deploy/gateway.yaml quantapay-gateway config check --probe
    """
    faults = faults_of_configuration()
    if faults:
        refuse(faults)
    typer.echo("The configuration is good.")
    if probe:
        run(_probe(settings_or_refuse()))


async def _probe(settings: Settings) -> None:
    from gateway.cli.wiring import gateway_or_refuse  # noqa: PLC0415 - a second that a check without --probe saves
    from gateway.quantapay.functions import GET_CREDIT_BALANCE  # noqa: PLC0415 - as above

    gateway = gateway_or_refuse(settings, SecretStr("redis://localhost"))  # never connected: a probe needs no store
    quantapay = gateway.services.quantapay
    try:
        await quantapay.call(GET_CREDIT_BALANCE)
    except GatewayError as error:
        fail(f"QuantaPay: {error.title} ({error.code}). {error.remedy}")
    finally:
        await quantapay.close()
    skew = quantapay.clock_skew
    typer.echo("QuantaPay answers and accepts the key.")
    typer.echo("Its clock is unknown." if skew is None else f"Its clock less ours: {skew:+.0f} s (at most ±300 works).")
