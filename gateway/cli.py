"""The `quantapay-gateway` program. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop
import yaml
from pydantic import SecretStr
from rich.console import Console

from gateway import __version__
from gateway.app import Gateway
from gateway.clock import SystemClock
from gateway.config import check, config_path, load_config
from gateway.config.fields import ID
from gateway.config.keys import new_publishable_key, new_secret_key, sha256_hex
from gateway.errors import GatewayError
from gateway.process import run_alone, run_worker
from gateway.quantapay.functions import GET_CREDIT_BALANCE
from gateway.server import StartFailed, bind
from gateway.settings import ConfigFault, ConfigurationError, Settings, load_settings, read_variables
from gateway.settings.load import SECRETS_DIRECTORY
from gateway.settings.model import EMBEDDED
from gateway.store.embedded import EmbeddedValkey, EmbeddedValkeyError
from gateway.store.redis import connect
from gateway.supervisor import Supervisor, die_with
from gateway.telemetry import logs

app = typer.Typer(
    name="quantapay-gateway",
    help="A REST front door for QuantaPay: typed errors, one place for the key, rate limits, metrics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print locals, and locals hold secrets
)
keys = typer.Typer(no_args_is_help=True, help="Keys for the gateway's callers.")
config = typer.Typer(no_args_is_help=True, help="The gateway's own configuration.")
app.add_typer(keys, name="keys")
app.add_typer(config, name="config")

FAILED, MISUSED = 1, 2


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
def serve() -> None:
    """Run the gateway, from environment variables and gateway.yaml.

    \b
    Examples:
      quantapay-gateway serve
      GATEWAY_REDIS_URL=embedded GATEWAY_WORKERS=2 quantapay-gateway serve
    """
    settings = _settings()
    _configure_logs(settings)
    public = _bound(settings.host, settings.port, "GATEWAY")
    ops = _bound(settings.ops_host, settings.ops_port, "GATEWAY_OPS")
    with _store_of(settings) as (url, embedded):
        if settings.workers == 1:
            clock = SystemClock()
            gateway = _gateway(settings, url)
            _run(run_alone(gateway, settings, public=public, ops=ops, clock=clock, embedded=embedded))
        else:
            _check_file(settings)
            supervisor = Supervisor(
                count=settings.workers,
                public=public,
                ops=ops,
                environ={**os.environ, "GATEWAY_REDIS_URL": url.get_secret_value()},
                embedded_store=embedded,
                clock=SystemClock(),
            )
            _run(supervisor.run())


@app.command(hidden=True)
def worker(
    public_fd: Annotated[int, typer.Option()],
    control: Annotated[Path, typer.Option()],
    supervisor: Annotated[int, typer.Option()],
) -> None:
    """Serve as one of several workers; `serve` starts these."""
    die_with(supervisor)
    settings = _settings()
    _configure_logs(settings)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(control))
    listener.listen()
    listener.setblocking(False)
    if settings.redis_url is None:
        raise typer.Exit(MISUSED)
    gateway = _gateway(settings, settings.redis_url)
    public = socket.socket(fileno=public_fd)
    _run(run_worker(gateway, settings, public=public, control=listener, clock=SystemClock()))


@app.command()
def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; the next free one if it is taken.")
    ] = 8080,
    ops_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for metrics and status.")] = 9464,
    simulator_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the QuantaPay simulator.")] = 8090,
) -> None:
    """Run everything on this machine: gateway, QuantaPay simulator, Valkey. Needs no key and no account.

    \b
    Examples:
      quantapay-gateway sandbox
      quantapay-gateway sandbox --port 9000
    """
    from gateway.sandbox.run import run_sandbox  # noqa: PLC0415 - production never loads it

    try:
        run_sandbox(port=port, ops_port=ops_port, simulator_port=simulator_port)
    except (EmbeddedValkeyError, OSError) as error:
        _fail(str(error), code=FAILED)


@app.command()
def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on, on loopback.")] = 8090,
    api_key: Annotated[str, typer.Option(help="The API key to accept.")] = "simulated-api-key",
    webhook_secret: Annotated[str, typer.Option(help="The webhook secret.")] = "simulated-webhook-secret",  # noqa: S107
) -> None:
    """Run the QuantaPay simulator alone.

    \b
    Examples:
      quantapay-gateway simulator --port 8090
      curl -s http://127.0.0.1:8090/api.php -d function=get-balances -d api-key=simulated-api-key
    """
    from gateway.sandbox.simulator import SimulatorOptions, simulator_server  # noqa: PLC0415 - as above

    try:
        simulated = SimulatorOptions(api_key=SecretStr(api_key), webhook_secret=SecretStr(webhook_secret))
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
        _run(simulate())
    except OSError as error:
        _fail(f"port {port}: {error.strerror}; choose another with --port", code=FAILED)


@keys.command("new")
def keys_new(
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


@config.command("check")
def config_check(
    probe: Annotated[bool, typer.Option("--probe", help="Also call QuantaPay once and compare clocks.")] = False,
) -> None:
    """Check environment and gateway.yaml: name every fault, print no secret.

    \b
    Examples:
      quantapay-gateway config check
      GATEWAY_CONFIG=deploy/gateway.yaml quantapay-gateway config check --probe
    """
    faults = check()
    if faults:
        _refuse(faults)
    typer.echo("The configuration is good.")
    if probe:
        _run(_probe(_settings()))


@app.command()
def openapi() -> None:
    """Print the specification (OpenAPI 3.1, YAML).

    \b
    Example:
      quantapay-gateway openapi > openapi.yaml
    """
    settings = Settings(quantapay_api_key=SecretStr("none"), config=Path(os.devnull))
    document = Gateway(settings, redis=connect("redis://localhost")).public_app().openapi()
    sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def _settings() -> Settings:
    try:
        return load_settings()
    except ConfigurationError as error:
        _refuse(error.faults)


def _gateway(settings: Settings, url: SecretStr) -> Gateway:
    try:
        return Gateway(settings, redis=connect(url), environ=read_variables(), secrets_dir=SECRETS_DIRECTORY)
    except ConfigurationError as error:
        _refuse(error.faults)


def _check_file(settings: Settings) -> None:
    try:
        load_config(
            config_path(settings),
            environ=read_variables(),
            secrets_dir=SECRETS_DIRECTORY,
            settings_secrets=settings.secrets(),
        )
    except ConfigurationError as error:
        _refuse(error.faults)


@contextmanager
def _store_of(settings: Settings) -> Iterator[tuple[SecretStr, bool]]:
    """Yield where Redis is, and whether it is a Valkey of our own, which then lives as long as this block."""
    url = settings.redis_url or SecretStr("")
    if url.get_secret_value() != EMBEDDED:
        yield url, False
        return
    try:
        valkey = EmbeddedValkey(settings.data_dir)
        valkey.start()
    except EmbeddedValkeyError as error:
        _fail(str(error), code=FAILED)
    try:
        typer.echo("Using an embedded Valkey: for one replica only.", err=True)
        yield SecretStr(valkey.url), True
    finally:
        valkey.stop()


def _bound(host: str, port: int, listener: str) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        wrong = "PORT" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "HOST"
        _fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {listener}_{wrong}", code=FAILED)


def _configure_logs(settings: Settings) -> None:
    json_lines = settings.log_format != "console" if settings.log_format else not sys.stdout.isatty()
    secrets = [*settings.secrets().values(), *([settings.redis_url] if settings.redis_url else [])]
    logs.configure(level=settings.log_level, json=json_lines, secrets=secrets)


async def _probe(settings: Settings) -> None:
    gateway = _gateway(settings, SecretStr("redis://localhost"))  # never connected: a probe needs no store
    quantapay = gateway.services.quantapay
    try:
        await quantapay.call(GET_CREDIT_BALANCE)
    except GatewayError as error:
        _fail(f"QuantaPay: {error.title} ({error.code}). {error.remedy}", code=FAILED)
    finally:
        await quantapay.close()
    skew = quantapay.clock_skew
    typer.echo("QuantaPay answers and accepts the key.")
    typer.echo("Its clock is unknown." if skew is None else f"Its clock less ours: {skew:+.0f} s (at most ±300 works).")


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end; Ctrl-C is a normal end."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except KeyboardInterrupt:
        pass
    except StartFailed:
        _fail("the gateway could not start; the log says why", code=FAILED)


def _refuse(faults: tuple[ConfigFault, ...] | list[ConfigFault]) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]The configuration has {len(faults)} fault{'s' if len(faults) > 1 else ''}:[/]")
    for fault in faults:
        console.print(f"  - {fault}", markup=False)
    raise typer.Exit(MISUSED)


def _fail(message: str, *, code: int) -> NoReturn:
    typer.echo(f"quantapay-gateway: {message}", err=True)
    raise typer.Exit(code)
