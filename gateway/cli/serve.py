"""`serve`: the gateway itself, as one process or as a supervisor with workers."""

import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from gateway.cli.common import MISUSED, config_or_refuse, fail, run, settings_or_refuse
from gateway.cli.lean import lean_imports
from gateway.clock import SystemClock
from gateway.server import bind
from gateway.settings import Settings
from gateway.settings.model import EMBEDDED
from gateway.store.embedded import EmbeddedValkey, EmbeddedValkeyError
from gateway.telemetry import logs

_PR_SET_PDEATHSIG = 1


def serve() -> None:
    """Run the gateway, from environment variables and gateway.yaml.

    \b
    Examples:
      quantapay-gateway serve
      GATEWAY_REDIS_URL=embedded GATEWAY_WORKERS=2 quantapay-gateway serve
    """
    settings = settings_or_refuse()
    _configure_logs(settings)
    public = _bound(settings.host, settings.port, "GATEWAY")
    ops = _bound(settings.ops_host, settings.ops_port, "GATEWAY_OPS")
    with _store_of(settings) as (url, embedded):
        if settings.workers == 1:
            _serve_alone(settings, url, public=public, ops=ops, embedded=embedded)
        else:
            _supervise(settings, url, public=public, ops=ops, embedded=embedded)


def worker(
    public_fd: Annotated[int, typer.Option()],
    control: Annotated[Path, typer.Option()],
    supervisor: Annotated[int, typer.Option()],
) -> None:
    """Serve as one of several workers; `serve` starts these."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be obeyed; the file is about to be read anyway
    _die_with(supervisor)
    with lean_imports():
        from gateway.cli.wiring import gateway_or_refuse  # noqa: PLC0415 - a supervisor needs no gateway
        from gateway.process import run_worker  # noqa: PLC0415 - likewise
        from gateway.telemetry.counting import count_in_memory  # noqa: PLC0415 - likewise

    settings = settings_or_refuse()
    _configure_logs(settings)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(control))
    listener.listen()
    listener.setblocking(False)
    if settings.redis_url is None:
        raise typer.Exit(MISUSED)
    write_metrics = count_in_memory()  # before the gateway makes its metrics
    gateway = gateway_or_refuse(settings, settings.redis_url)
    public = socket.socket(fileno=public_fd)
    run(
        run_worker(gateway, settings, public=public, control=listener, clock=SystemClock(), write_metrics=write_metrics)
    )


def _serve_alone(
    settings: Settings, url: SecretStr, *, public: socket.socket, ops: socket.socket, embedded: bool
) -> None:
    with lean_imports():
        from gateway.cli.wiring import gateway_or_refuse  # noqa: PLC0415 - a supervisor needs no gateway
        from gateway.process import run_alone  # noqa: PLC0415 - likewise

    gateway = gateway_or_refuse(settings, url)
    run(run_alone(gateway, settings, public=public, ops=ops, clock=SystemClock(), embedded=embedded))


def _supervise(
    settings: Settings, url: SecretStr, *, public: socket.socket, ops: socket.socket, embedded: bool
) -> None:
    with lean_imports():
        from gateway.supervisor import Supervisor  # noqa: PLC0415 - a single process needs no supervisor

    config_or_refuse(settings)  # before anything starts
    supervisor = Supervisor(
        count=settings.workers,
        public=public,
        ops=ops,
        environ={**os.environ, "GATEWAY_REDIS_URL": url.get_secret_value()},
        embedded_store=embedded,
        clock=SystemClock(),
    )
    run(supervisor.run())


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
        fail(str(error))
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
        fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {listener}_{wrong}")


def _configure_logs(settings: Settings) -> None:
    json_lines = settings.log_format != "console" if settings.log_format else not sys.stdout.isatty()
    secrets = [*settings.secrets().values(), *([settings.redis_url] if settings.redis_url else [])]
    logs.configure(level=settings.log_level, json=json_lines, secrets=secrets, for_good=True)


def _die_with(supervisor: int) -> None:
    """Ask the kernel to end this worker when process `supervisor`, its parent, is gone, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # gone before we asked
        os.kill(os.getpid(), signal.SIGTERM)
