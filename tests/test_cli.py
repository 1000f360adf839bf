"""The program from outside: help with examples, exit codes, faults by name, and no secret printed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from pydantic import SecretStr
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli.program import COMMANDS, app
from gateway.config import load_config
from gateway.config.keys import sha256_hex
from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.processes import imported_in

KEY, SECRET = "CANARY-api-key", "CANARY-webhook-secret"
GOOD = {"QUANTAPAY_API_KEY": KEY, "QUANTAPAY_WEBHOOK_SECRET": SECRET, "GATEWAY_REDIS_URL": "redis://127.0.0.1:1"}


@pytest.fixture
def program(tmp_path, unmeasured):
    """Runs the program in an empty folder, with no variables of ours but those given."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("GATEWAY_", "QUANTAPAY_"))}
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={**inherited, "COLUMNS": "120", **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "CANARY" not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def invoke():
    """Runs a command in this process, for what needs no environment: starting the program costs a second."""

    def run(*arguments: str) -> Result:
        done = CliRunner(env={"COLUMNS": "120"}).invoke(app, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    return run


def test_the_program_is_what_the_tests_in_this_process_run(program, invoke):
    assert program("--help").stdout.replace("python -m gateway", "quantapay-gateway") == invoke("--help").stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_list_says_of_a_command_what_it_says_of_itself(command):
    loaded = command.load()
    assert (loaded.name, loaded.hidden) == (command.name, False)
    assert " ".join(loaded.help.partition("\n\n")[0].split()) == command.help


@pytest.mark.parametrize(
    ("arguments", "needless"),
    [
        (["--help"], {"pydantic", "httpx", "gateway.settings"}),
        (["keys", "new", "--client", "orders"], {"fastapi", "httpx", "redis", "gateway.app"}),
        (["config", "check"], {"fastapi", "aiohttp", "redis", "gateway.app"}),
    ],
    ids=["--help", "keys new", "config check"],
)
def test_a_command_imports_what_it_needs(program, arguments, needless):
    imported = imported_in(program(*arguments, **GOOD, PYTHONPROFILEIMPORTTIME="1").stderr)
    assert imported > {"gateway.cli.program"}
    assert not imported & needless


@pytest.mark.parametrize(
    "command", [["serve"], ["sandbox"], ["simulator"], ["openapi"], ["keys", "new"], ["config", "check"], ["quote"]]
)
def test_every_command_has_help_with_examples(invoke, command):
    done = invoke(*command, "--help")
    assert done.exit_code == 0
    assert "Example" in done.stdout
    assert f"quantapay-gateway {' '.join(command)}" in done.stdout


def test_the_version_is_printed(program):
    assert program("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["keys", "new"], ["simulator", "--port", "x"]]
)
def test_wrong_usage_is_2(invoke, arguments):
    assert invoke(*arguments).exit_code == 2


def test_a_new_secret_key_is_shown_once_and_only_its_hash_goes_into_the_file(invoke, tmp_path):
    done = invoke("keys", "new", "--client", "orders")
    key, _, lines = done.stdout.partition("\n")
    assert key.startswith("qsk_")
    assert key not in lines
    document = yaml.safe_load(lines)
    assert document["clients"][0]["key_sha256"] == sha256_hex(key)
    path = tmp_path / "gateway.yaml"
    path.write_text(lines)
    assert load_config(path, environ={}, secrets_dir=None, settings_secrets={}).clients[0].id == "orders"


def test_a_publishable_key_stands_in_the_file_itself(program, invoke, tmp_path):
    key, _, lines = invoke("keys", "new", "--client", "shop", "--publishable").stdout.partition("\n")
    assert key.startswith("qpk_")
    assert yaml.safe_load(lines)["clients"][0]["publishable_key"] == key
    (tmp_path / "gateway.yaml").write_text(lines)
    assert program("config", "check", **GOOD).returncode == 0


def test_a_client_id_that_could_not_be_one_is_refused(invoke):
    done = invoke("keys", "new", "--client", "Not An Id")
    assert done.exit_code == 2
    assert "client" in done.stderr


def test_a_good_configuration_is_good(program):
    done = program("config", "check", **GOOD)
    assert (done.returncode, done.stdout) == (0, "The configuration is good.\n")


def test_every_fault_of_both_parts_is_named_at_once(program, tmp_path):
    (tmp_path / "gateway.yaml").write_text("clients:\n  - {id: CANARY!, key_sha256: x, scopes: [all]}\n")
    bad = {"QUANTAPAY_URL": "http://CANARY.example", "GATEWAY_PORT": "tcp://CANARY:80", "GATEWAY_PRT": "1"}
    done = program("config", "check", **{**GOOD, **bad, "QUANTAPAY_API_KEY": ""})
    assert done.returncode == 2
    for where in ("QUANTAPAY_API_KEY", "QUANTAPAY_URL", "GATEWAY_PORT", "enableServiceLinks", "GATEWAY_PRT"):
        assert where in done.stderr
    for where in ("clients[0].id", "clients[0].key_sha256", "clients[0].scopes[0]"):
        assert where in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_names_what_is_missing_or_wrong(program, tmp_path, workers):
    done = program("serve")
    assert done.returncode == 2
    for name in ("QUANTAPAY_API_KEY", "QUANTAPAY_WEBHOOK_SECRET", "GATEWAY_REDIS_URL"):
        assert name in done.stderr
    (tmp_path / "gateway.yaml").write_text("clients: nonsense\n")
    ports = {"GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0", "GATEWAY_WORKERS": workers}
    done = program("serve", **GOOD, **ports)
    assert done.returncode == 2
    assert "clients" in done.stderr


@pytest.mark.parametrize(
    ("variable", "other"), [("GATEWAY_PORT", "GATEWAY_OPS_PORT"), ("GATEWAY_OPS_PORT", "GATEWAY_PORT")]
)
def test_a_taken_port_is_named_with_its_variable(program, variable, other):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = program("serve", **{**GOOD, variable: port, other: "0"})
        assert (done.returncode, port in done.stderr, variable in done.stderr) == (1, True, True)
        done = program("simulator", "--port", port)
        assert (done.returncode, "--port" in done.stderr) == (1, True)


def test_a_host_that_is_not_ours_is_named_with_its_variable(program):
    done = program("serve", **GOOD, GATEWAY_HOST="192.0.2.1", GATEWAY_PORT="0", GATEWAY_OPS_PORT="0")
    assert (done.returncode, "GATEWAY_HOST" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments", [["--api-key", ""], ["--api-key", "0"], ["--webhook-secret", ""], ["--port", "65536"]]
)
def test_a_simulator_that_could_not_work_is_wrong_usage(invoke, arguments):
    assert invoke("simulator", *arguments).exit_code == 2


@pytest.mark.parametrize("client", ["true", "null", "no", "123", "0x1f", "1e3"])
def test_an_id_that_yaml_would_take_for_something_else_stays_a_text(invoke, tmp_path, client):
    _, _, lines = invoke("keys", "new", "--client", client).stdout.partition("\n")
    path = tmp_path / "gateway.yaml"
    path.write_text(lines)
    assert load_config(path, environ={}, secrets_dir=None, settings_secrets={}).clients[0].id == client


def test_the_simulator_ends_cleanly_when_asked(tmp_path):
    command = [sys.executable, "-m", "gateway", "simulator", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert "QuantaPay simulator on http://127.0.0.1:" in process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0


def test_the_probe_calls_quantapay_once_and_compares_clocks(program):
    options = SimulatorOptions(api_key=SecretStr(KEY), webhook_secret=SecretStr(SECRET))
    with running_simulator(options) as url:
        # Embedded: a probe once took this word for an address.
        environ = {**GOOD, "QUANTAPAY_URL": f"{url}/api.php", "GATEWAY_REDIS_URL": "embedded"}
        done = program("config", "check", "--probe", **environ)
        assert done.returncode == 0
        assert "accepts the key" in done.stdout
        assert "clock" in done.stdout
        done = program("config", "check", "--probe", **{**environ, "QUANTAPAY_API_KEY": "CANARY-wrong"})
        assert done.returncode == 1
        assert "upstream-credentials-rejected" in done.stderr
    done = program("config", "check", "--probe", **environ)
    assert done.returncode == 1
    assert "upstream-unavailable" in done.stderr


def test_the_specification_printed_is_the_one_committed(program):
    committed = Path(__file__).parents[1] / "openapi" / "openapi.yaml"
    assert program("openapi").stdout == committed.read_text(encoding="utf-8")


def test_an_embedded_valkey_that_is_in_use_is_said(program, tmp_path):
    from gateway.store.embedded import EmbeddedValkey

    with EmbeddedValkey(tmp_path, durable=False):
        environ = {"GATEWAY_REDIS_URL": "embedded", "GATEWAY_DATA_DIR": str(tmp_path)}
        done = program("serve", **{**GOOD, **environ, "GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0"})
    assert done.returncode == 1
    assert "GATEWAY_DATA_DIR" in done.stderr
