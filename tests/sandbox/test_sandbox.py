"""The sandbox as a newcomer meets it: start it, paste what it prints, stop it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli.program import app
from gateway.server import bind
from tests.plugins.processes import children_of, clean_environ, free_ports, gone, until


class Sandbox:
    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.port, self.ops_port, self.simulator_port, self.storefront_port = free_ports(4)
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "gateway", "sandbox", "--port", str(self.port),
                    "--ops-port", str(self.ops_port), "--simulator-port", str(self.simulator_port),
                    "--storefront-port", str(self.storefront_port),
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


@contextmanager
def running(folder: Path) -> Iterator[Sandbox]:
    started = Sandbox(folder)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait()


@pytest.fixture
def sandbox(tmp_path):
    """One that the test may end."""
    with running(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """One for all tests that let it live: each start takes seconds."""
    with running(tmp_path_factory.mktemp("sandbox")) as started:
        yield started


def paste(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_printed_line_works_when_pasted(lasting):
    balances, rate, create, pay, see, quoted, buy, orders, refused, metrics = lasting.commands()
    until(lambda: paste(balances), "the gateway answers")
    assert [row["cryptocurrency"] for row in json.loads(paste(balances))["balances"]] == ["btc", "eth", "usdt"]
    assert json.loads(paste(rate))["currency"] == "eur"
    assert json.loads(paste(create))["status"] == "open"
    paste(pay)
    assert json.loads(paste(see))["transactions"][0]["status"] == "pending"
    assert json.loads(paste(quoted))["client_token"].startswith("cst_")
    paste(buy)
    assert [order["status"] for order in json.loads(paste(orders))["orders"]] == ["open", "open"]
    # As a person would, or the budget of calls to QuantaPay is soon spent.
    until(lambda: json.loads(paste(see))["transactions"][0]["status"] == "completed", "the payment is paid", every=0.5)
    until(lambda: '"paid"' in paste(orders), "the shop is told that its order is paid", every=0.5)
    simulator = f"http://127.0.0.1:{lasting.simulator_port}/simulator"
    sent = httpx.get(f"{simulator}/webhooks").json()["webhooks"]
    assert [(item["transaction"]["id"], item["status"]) for item in sent] == [("1", 200), ("2", 200)]
    assert "get-transaction" in [call["function"] for call in httpx.get(f"{simulator}/calls").json()["calls"]]
    assert "the shop was told of its order" in lasting.text()
    assert json.loads(paste(refused))["errors"][0]["pointer"] == "#/price"
    assert 'function="create-checkout-session",outcome="ok"} 4.0' in paste(metrics)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_shop_starts_a_payment_as_a_browser_does(lasting, host):
    shop = f"http://{host}:{lasting.storefront_port}"
    assert f"http://127.0.0.1:{lasting.storefront_port}  ← open this in a browser" in lasting.text()
    with httpx.Client(headers={"Origin": shop}, timeout=20) as browser:
        settings = browser.get(f"{shop}/settings.js").text
        assert f'"http://127.0.0.1:{lasting.port}/sdk/v1.js"' in settings
        gateway = httpx.URL(f"http://127.0.0.1:{lasting.port}")
        key = {"Authorization": f"Bearer {re.search('qpk_[A-Za-z0-9_-]{43}', settings)[0]}"}
        quote = browser.post(f"{shop}/quote").json()
        tampered = browser.post(gateway.join("/checkout-sessions"), json={**quote, "price": "0.01"}, headers=key)
        assert (tampered.status_code, tampered.json()["code"]) == (403, "invalid-quote")
        session = browser.post(gateway.join("/checkout-sessions"), json=quote, headers=key).json()
        code = browser.get(f"{shop}/qr.svg", params={"url": session["payment_url"]})
        assert code.headers["content-type"] == "image/svg+xml"
        again = browser.post(f"{shop}/quote", json={"order_id": quote["order_id"]}).json()
        assert browser.post(gateway.join("/checkout-sessions"), json=again, headers=key).json() == session
        token = {"Authorization": f"Bearer {session['client_token']}"}
        own = browser.get(gateway.join(f"/checkout-sessions/{session['id']}"), headers=token).json()
        assert (own["status"], own["payment_url"]) == ("open", session["payment_url"])


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


@pytest.mark.parametrize(("missing", "said"), [("segno", "[embedded,sandbox]"), ("yaml", None)])
def test_an_install_without_its_packages_says_what_to_install(missing, said, monkeypatch):
    for module in [
        name for name in sys.modules if name.startswith(("gateway.sandbox.run", "gateway.sandbox.storefront"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    done = CliRunner().invoke(app, ["sandbox"])
    assert done.exit_code == 1
    if said is None:
        assert isinstance(done.exception, ModuleNotFoundError)
    else:
        assert said in done.output


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
