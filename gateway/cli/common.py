"""What the commands share: settings or a refusal, an event loop, and the two ways to end badly."""

import asyncio
import gc
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
import uvloop

from gateway.config import Config, config_path, load_config
from gateway.server import StartFailed
from gateway.settings import ConfigFault, ConfigurationError, Settings, load_settings, read_variables
from gateway.settings.load import SECRETS_DIRECTORY

FAILED, MISUSED = 1, 2


def settings_or_refuse(*, asks_quantapay: bool = True) -> Settings:
    """Return the settings of this process, or end with 2 and every fault of them.

    A command that asks nothing of QuantaPay needs no key of it.
    """
    try:
        return load_settings(mode="serve" if asks_quantapay else "sandbox")
    except ConfigurationError as error:
        refuse(error.faults)


def config_or_refuse(settings: Settings, path: Path | None = None) -> Config:
    """Return gateway.yaml, or what is at `path` instead; or end with 2 and every fault of it."""
    try:
        return load_config(
            path or config_path(settings),
            environ=read_variables(),
            secrets_dir=SECRETS_DIRECTORY,
            settings_secrets=settings.secrets(),
        )
    except ConfigurationError as error:
        refuse(error.faults)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end; Ctrl-C is a normal end."""
    start_collecting()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except KeyboardInterrupt:
        pass
    except StartFailed:
        fail("the gateway could not start; the log says why")


def start_collecting() -> None:
    """Have garbage collected from now on, where `main` put it off.

    What is there by now stays as long as the process, so it is put out of the collector's sight: looking through all
    of it now and then would hold up requests.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def refuse(faults: Sequence[ConfigFault]) -> NoReturn:
    """End with 2 and a line a fault."""
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only bad news needs

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]The configuration has {len(faults)} fault{'s' if len(faults) > 1 else ''}:[/]")
    for fault in faults:
        console.print(f"  - {fault}", markup=False)
    raise typer.Exit(MISUSED)


def fail(message: str) -> NoReturn:
    """End with 1 and one line that says what to do."""
    typer.echo(f"quantapay-gateway: {message}", err=True)
    raise typer.Exit(FAILED)
