"""`sandbox` and `simulator`: trying things out on loopback."""

import asyncio
import signal
from typing import Annotated

import typer
from pydantic import SecretStr

from gateway.cli.common import fail, run, start_collecting
from gateway.store.embedded import EmbeddedValkeyError


def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; the next free one if it is taken.")
    ] = 8080,
    ops_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for metrics and status.")] = 9464,
    simulator_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the QuantaPay simulator.")] = 8090,
    storefront_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the shop to open in a browser.")
    ] = 8070,
) -> None:
    """Run everything on this machine: gateway, QuantaPay simulator, shop, Valkey. Needs no key and no account.

    \b
    Examples:
      quantapay-gateway sandbox
      quantapay-gateway sandbox --port 9000
    """
    try:
        from gateway.sandbox.run import run_sandbox  # noqa: PLC0415 - production never loads it
    except ModuleNotFoundError as error:
        if error.name != "segno":
            raise
        fail("the sandbox needs more packages: run `pip install 'quantapay-gateway[embedded,sandbox]'`")

    start_collecting()
    try:
        run_sandbox(port=port, ops_port=ops_port, simulator_port=simulator_port, storefront_port=storefront_port)
    except KeyboardInterrupt:
        pass  # stopped before it was up
    except (EmbeddedValkeyError, OSError) as error:
        fail(str(error))


def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on, on loopback.")] = 8090,
    api_key: Annotated[str, typer.Option(help="The API key to accept.")] = "simulated-api-key",
    webhook_secret: Annotated[str, typer.Option(help="The webhook secret.")] = "simulated-webhook-secret",  # noqa: S107 - opens nothing real
    webhook_url: Annotated[
        str | None,
        typer.Option(help="Where to tell of completed payments, such as http://127.0.0.1:8080/webhooks/quantapay."),
    ] = None,
) -> None:
    """Run the QuantaPay simulator alone.

    \b
    Examples:
      quantapay-gateway simulator --port 8090
      quantapay-gateway simulator --webhook-url http://127.0.0.1:8080/webhooks/quantapay
      curl -s http://127.0.0.1:8090/api.php -d function=get-balances -d api-key=simulated-api-key
    """
    from gateway.sandbox.simulator import SimulatorOptions, simulator_server  # noqa: PLC0415 - production never loads it

    try:
        simulated = SimulatorOptions(
            api_key=SecretStr(api_key), webhook_secret=SecretStr(webhook_secret), webhook_url=webhook_url
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def simulate() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with simulator_server(simulated, port=port) as url:
            typer.echo(f"QuantaPay simulator on {url}/api.php (scenarios: {url}/simulator/scenarios)")
            await stop.wait()

    try:
        run(simulate())
    except OSError as error:
        fail(f"port {port}: {error.strerror}; choose another with --port")
