"""Several worker processes behind one public socket, and one operators' listener for all of them.

The supervisor binds both sockets, starts the workers, starts one again that dies, passes signals on, and serves
`/metrics` (summed over the workers' files, after each was asked to write to its own) and `/status` (asked from each
worker). It asks over Unix sockets, and answers no public request itself.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import structlog
from prometheus_client import CollectorRegistry, multiprocess

from gateway.clock import Clock
from gateway.routes.ops import WRITE_METRICS, create_ops_app
from gateway.server import Listener
from gateway.telemetry import status

log = structlog.get_logger()

METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus-client when it is imported, so a worker must be born with it."""

_FIRST_RESTART, _SLOWEST_RESTART = 0.1, 5.0
_ASK_SECONDS = 1.0


class Supervisor:
    """Keeps `count` workers alive until it is told to stop."""

    def __init__(
        self,
        *,
        count: int,
        public: socket.socket,
        ops: socket.socket,
        environ: Mapping[str, str],
        embedded_store: bool,
        clock: Clock,
    ) -> None:
        self._count = count
        self._public = public
        self._ops = ops
        self._environ = dict(environ)
        self._embedded_store = embedded_store
        self._clock = clock
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, and until every worker has finished what it had in flight."""
        with tempfile.TemporaryDirectory(prefix="quantapay-gateway-") as folder:
            self._runtime = Path(folder)
            self._metrics = self._runtime / "metrics"
            self._metrics.mkdir()
            app = create_ops_app(registry=self._registry, status=self._status, clock=self._clock)
            ops = Listener(app, self._ops, lifespan=False, grace=1)
            serving = asyncio.ensure_future(ops.run_until_stopped())
            self._pass_signals_on()
            try:
                await asyncio.gather(*(self._keep_alive(number) for number in range(self._count)))
            finally:
                ops.should_exit = True
                await serving
                log.info("stopped")

    def _pass_signals_on(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self) -> None:
        self._stopping.set()
        self._public.close()
        self._send(signal.SIGTERM)

    def _reload(self) -> None:
        for number, process in self._processes.items():
            # A worker that has no control socket yet does not handle the signal yet, and will read the file anyway.
            if self._control_socket(number).exists():
                process.send_signal(signal.SIGHUP)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep_alive(self, number: int) -> None:
        pause = _FIRST_RESTART
        while not self._stopping.is_set():
            born = self._clock.monotonic()
            process = await self._start(number)
            self._processes[number] = process
            if self._stopping.is_set():  # the signal came while it was being born
                process.send_signal(signal.SIGTERM)
            code = await process.wait()
            del self._processes[number]
            multiprocess.mark_process_dead(process.pid, path=str(self._metrics))  # type: ignore[no-untyped-call]
            if self._stopping.is_set():
                return
            lived = self._clock.monotonic() - born
            pause = _FIRST_RESTART if lived > _SLOWEST_RESTART else min(pause * 2, _SLOWEST_RESTART)
            log.error("worker died", worker=number, exit_code=code, lived_seconds=round(lived), restart_in=pause)
            await self._clock.sleep(pause)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        control = self._control_socket(number)
        control.unlink(missing_ok=True)
        fd = self._public.fileno()
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "worker", "--public-fd", str(fd), "--control", str(control),
            "--supervisor", str(os.getpid()),
            env={**self._environ, METRICS_DIR: str(self._metrics)},
            pass_fds=[fd],
            start_new_session=True,  # a Ctrl-C reaches the supervisor alone, which passes on one signal
        )  # fmt: skip

    def _control_socket(self, number: int) -> Path:
        return self._runtime / f"worker-{number}.sock"

    async def _registry(self) -> CollectorRegistry:
        await self._ask_all("POST", WRITE_METRICS)  # the file of one that does not answer is a second behind
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(self._metrics))  # type: ignore[no-untyped-call]
        return registry

    async def _status(self) -> dict[str, Any]:
        workers = [status.from_json(answer) for answer in await self._ask_all("GET", "/status")]
        return status.document(workers, expected=self._count, embedded_store=self._embedded_store)

    async def _ask_all(self, method: str, path: str) -> list[Any]:
        """Ask all workers at once, and return what those say that answer in time."""
        answers = await asyncio.gather(*(self._ask(number, method, path) for number in range(self._count)))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, number: int, method: str, path: str) -> Any:  # noqa: ANN401 - what JSON may be
        # There is no TLS on a Unix socket, so no certificates are read to verify it by: that would take 40 ms.
        transport = httpx.AsyncHTTPTransport(uds=str(self._control_socket(number)), verify=False)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=_ASK_SECONDS) as http:
                answer = await http.request(method, f"http://worker{path}")
                return answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None
