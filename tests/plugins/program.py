"""The program `quantapay-gateway` as child processes, and what a test needs to watch them from outside."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with no variable of the gateway in it but those given."""
    ours = ("QUANTAPAY_", "GATEWAY_", "PROMETHEUS_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **variables}


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, in a folder without configuration unless the test put one there."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def until(probe: Callable[[], T], *, within: float = 20.0, what: str = "") -> T:
    """Return the first true value of `probe`, asked again and again; fail when `within` seconds have passed."""
    deadline = time.monotonic() + within
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or probe}")
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(parent: int, word: str = "") -> list[int]:
    """Return the processes that `parent` started and that run, those with `word` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if fields[0] != "Z" and int(fields[1]) == parent and word in command:
            found.append(int(folder.name))
    return sorted(found)


class Program:
    """The program as a child process. Its output goes to files, so that nothing has to read along."""

    def __init__(self, *arguments: str, cwd: Path, **variables: str) -> None:
        self._output = Path(tempfile.mkdtemp(prefix="output-", dir=cwd))
        with (self._output / "out").open("wb") as out, (self._output / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *arguments],
                cwd=cwd,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return (self._output / "out").read_text()

    @property
    def err(self) -> str:
        return (self._output / "err").read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within: float = 20.0) -> int:
        """Return the exit code."""
        return self.process.wait(within)

    def running(self) -> Self:
        """Fail with what it wrote if it has ended."""
        code = self.process.poll()
        assert code is None, f"ended with {code}:\n{self.out}\n{self.err}"
        return self

    def close(self) -> None:
        """End it, gently if it listens, so that it ends its own children."""
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
            try:
                self.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
