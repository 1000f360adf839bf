"""The sandbox as a newcomer meets it: start it, paste what it prints, stop it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.server import bind
from tests.plugins.processes import children_of, clean_environ, free_port, gone, until


class Sandbox:
    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.port, self.ops_port, self.simulator_port = free_port(), free_port(), free_port()
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "gateway", "sandbox", "--port", str(self.port),
                    "--ops-port", str(self.ops_port), "--simulator-port", str(self.simulator_port),
                ],
                env=clean_environ(TMPDIR=str(self.temporary), COLUMNS="120"), cwd=folder, stdout=output, stderr=output,
            )  # fmt: skip
        until(lambda: "Ctrl-C stops everything" in self.text(), "the sandbox is up")

    def text(self) -> str:
        assert self.process.poll() is None, self._output.read_text()
        return self._output.read_text()

    def commands(self) -> list[str]:
        return [line for line in self.text().splitlines() if line.startswith("curl ")]

    def valkey(self) -> int:
        [pid] = children_of(self.process.pid)
        return pid


@pytest.fixture
def sandbox(tmp_path):
    running = Sandbox(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


def paste(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_printed_line_works_when_pasted(sandbox):
    balances, rate, create, pay, see, refused, metrics = sandbox.commands()
    until(lambda: paste(balances), "the gateway answers")
    assert [row["cryptocurrency"] for row in json.loads(paste(balances))["balances"]] == ["btc", "eth", "usdt"]
    assert json.loads(paste(rate))["currency"] == "eur"
    assert json.loads(paste(create))["status"] == "open"
    paste(pay)
    assert json.loads(paste(see))["transactions"][0]["status"] == "pending"
    # As a person would, or the budget of calls to QuantaPay is soon spent.
    until(lambda: json.loads(paste(see))["transactions"][0]["status"] == "completed", "the payment is paid", every=0.5)
    assert json.loads(paste(refused))["errors"][0]["pointer"] == "#/price"
    assert 'function="create-checkout-session",outcome="ok"} 2.0' in paste(metrics)


def test_it_ends_when_asked_and_leaves_nothing(sandbox):
    valkey = sandbox.valkey()
    sandbox.process.send_signal(signal.SIGTERM)
    assert sandbox.process.wait(10) == 0
    assert gone(valkey)
    assert list(sandbox.temporary.iterdir()) == []


def test_its_valkey_dies_with_it_even_when_it_is_killed(sandbox):
    valkey = sandbox.valkey()
    sandbox.process.kill()
    sandbox.process.wait()
    until(lambda: gone(valkey), "the Valkey is gone")


def test_a_taken_port_moves_on_to_the_next(tmp_path, monkeypatch):
    from gateway.sandbox import run

    first = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = run._bind_near(port)
    try:
        assert port < second.getsockname()[1] <= port + 20
        monkeypatch.setattr(run, "_PORTS_TO_TRY", 1)
        with pytest.raises(OSError, match="in use"):
            run._bind_near(port)
    finally:
        first.close()
        second.close()
