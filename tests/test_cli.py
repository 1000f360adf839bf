"""The program's commands: what they print, where to, and their exit codes."""

import hashlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import app
from gateway.config.load import parse_config
from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.program import ROOT, Program, environment, free_port, run, until

CANARY = "CANARY"
API_KEY = f"{CANARY}-api-key"
WEBHOOK_SECRET = f"{CANARY}-webhook-secret"
COMPLETE = {
    "QUANTAPAY_API_KEY": API_KEY,
    "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
    "GATEWAY_REDIS_URL": f"redis://:{CANARY}-password@127.0.0.1:1/0",
}
REQUIRED = list(COMPLETE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no variable of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", environment())
    return tmp_path


def call(*arguments: str, **variables: str) -> Result:
    """Run a command in this process. A command may end by its exit code only, never by an exception."""
    result = CliRunner().invoke(app, arguments, env=variables)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert CANARY not in result.output
    return result


def words(text: str) -> str:
    """Undo the wrapping and the boxes of a help text."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


# Help, versions, wrong usage


@pytest.mark.parametrize(
    "command", ["serve", "sandbox", "simulator", "keys new", "config check", "openapi"], ids=str.split
)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:.*quantapay-gateway {command}", words(result.output))


def test_the_help_names_every_command_but_the_inner_one() -> None:
    output = words(call("--help").output)
    for command in ("serve", "sandbox", "simulator", "keys", "config", "openapi"):
        assert f" {command} " in output
    assert "worker" not in output


def test_the_version_is_printed() -> None:
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["serve", "--no-such-option"],
        ["serve", "surplus"],
        ["keys", "new"],
        ["simulator", "--port", "many"],
        ["simulator", "--port", "65536"],
        ["simulator", "--port", "-1"],
        ["sandbox", "--port", "65536"],
        ["keys", "new", "--client", "Not An Id"],
        ["simulator", "--api-key", ""],
        ["simulator", "--api-key", "0"],
        ["simulator", "--webhook-secret", ""],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


# keys new


def loaded(lines: str):
    """Read printed lines as a gateway.yaml, once the client has got its scopes."""
    document = yaml.safe_load(lines)
    [client] = document["clients"]
    client["scopes"] = ["rates:read"]
    if "publishable_key" in client:
        client |= {"origins": ["https://shop.example"], "quote_secret": "${QUOTE_SECRET}", "currencies": ["usd"]}
    quote = {"QUOTE_SECRET": "a-quote-secret-of-more-than-32-characters"}
    content = yaml.safe_dump(document).encode()
    [parsed] = parse_config(content, environ=quote, secrets_dir=None, settings_secrets={}).clients
    return parsed


def test_a_new_key_comes_with_lines_for_gateway_yaml_that_hold_only_its_hash() -> None:
    result = call("keys", "new", "--client", "orders")
    assert result.exit_code == 0
    key, lines = result.stdout.split("\n", 1)
    assert re.fullmatch(r"qsk_[A-Za-z0-9_-]{43}", key)
    assert key not in lines
    assert key not in result.stderr
    client = loaded(lines)
    assert client.id == "orders"
    assert list(client.key_sha256) == [hashlib.sha256(key.encode()).hexdigest()]


def test_a_new_publishable_key_stands_in_its_lines() -> None:
    result = call("keys", "new", "--client", "storefront", "--publishable")
    key, lines = result.stdout.split("\n", 1)
    assert re.fullmatch(r"qpk_[A-Za-z0-9_-]{43}", key)
    client = loaded(lines)
    assert (client.id, list(client.publishable_key)) == ("storefront", [key])


@pytest.mark.parametrize("client", ["123", "0x1f", "1e3", "true", "null", "no", "2026-04-10"])
def test_an_id_that_yaml_would_read_as_something_else_is_quoted(client: str) -> None:
    _, lines = call("keys", "new", "--client", client).stdout.split("\n", 1)
    assert loaded(lines).id == client


def test_no_two_keys_are_equal() -> None:
    assert call("keys", "new", "--client", "a").stdout != call("keys", "new", "--client", "a").stdout


# config check


def test_a_good_configuration_is_called_good(home: Path) -> None:
    (home / "gateway.yaml").write_text("clients: []\n")
    result = call("config", "check", **COMPLETE)
    assert (result.exit_code, result.stdout) == (0, "The configuration is good.\n")


def test_every_fault_is_named_at_once_without_its_value(home: Path) -> None:
    (home / "gateway.yaml").write_text(f"clients:\n  - id: {CANARY}\n    quote_secret: {CANARY}\nextra: {CANARY}\n")
    variables = {
        **COMPLETE,
        "QUANTAPAY_API_KEY_NEXT": API_KEY,
        "QUANTAPAY_URL": f"http://{CANARY}.example/",
        "GATEWAY_PORT": "tcp://10.0.0.7:8080",
        "GATEWAY_WORKERS": f"{CANARY}",
        "GATEWAY_WORKRES": f"{CANARY}",
        "QUANTAPAY_ENTIRELY_UNKNOWN": f"{CANARY}",
    }
    result = call("config", "check", **variables)
    assert (result.exit_code, result.stdout) == (2, "")
    for name in ("QUANTAPAY_API_KEY_NEXT", "QUANTAPAY_URL", "QUANTAPAY_ENTIRELY_UNKNOWN", "clients[0].id", "extra"):
        assert f"- {name}" in result.stderr
    assert re.search(r"- GATEWAY_PORT: .*service links.*\(example: 8080\)", result.stderr)
    assert "- GATEWAY_WORKERS: takes a whole number from 1 to 1000 (example: 2)" in result.stderr
    assert "did you mean GATEWAY_WORKERS?" in result.stderr
    count = len(re.findall(r"^  - ", result.stderr, re.MULTILINE))
    assert f"The configuration has {count} faults:" in result.stderr


@pytest.mark.parametrize("command", ["serve", "config check"])
def test_what_is_missing_is_named_all_together(command: str, home: Path) -> None:
    result = run(*command.split(), cwd=home)
    assert (result.returncode, result.stdout) == (2, "")
    for name in REQUIRED:
        assert f"- {name}: required" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_refuses_a_bad_file_before_it_starts_anything(home: Path, workers: str) -> None:
    (home / "gateway.yaml").write_text(f"clients: {CANARY}\n")
    ports = {"GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0", "GATEWAY_WORKERS": workers}
    result = run("serve", cwd=home, **COMPLETE, **ports)
    assert (result.returncode, result.stdout) == (2, "")
    assert "- clients" in result.stderr
    assert CANARY not in result.stderr
    assert "Traceback" not in result.stderr


def test_the_env_file_counts(home: Path) -> None:
    (home / ".env").write_text("\n".join(f"{name}={value}" for name, value in COMPLETE.items()))
    assert call("config", "check").exit_code == 0


# config check --probe


@pytest.fixture
def quantapay() -> Iterator[str]:
    options = SimulatorOptions(api_key=SecretStr(API_KEY), webhook_secret=SecretStr(WEBHOOK_SECRET))
    with running_simulator(options) as url:
        yield f"{url}/api.php"


def test_a_probe_tells_that_the_key_works_and_how_far_the_clocks_are_apart(quantapay: str) -> None:
    result = call("config", "check", "--probe", **COMPLETE, QUANTAPAY_URL=quantapay)
    assert result.exit_code == 0
    assert "accepts the key" in result.stdout
    assert re.search(r"clock less ours: [+-][01] s", result.stdout)


def test_a_probe_with_a_wrong_key_fails_and_names_the_problem(quantapay: str) -> None:
    variables = {**COMPLETE, "QUANTAPAY_API_KEY": f"{CANARY}-wrong", "QUANTAPAY_URL": quantapay}
    result = call("config", "check", "--probe", **variables)
    assert result.exit_code == 1
    assert "upstream-credentials-rejected" in result.stderr


def test_a_probe_of_nobody_fails_and_names_the_problem() -> None:
    url = f"http://127.0.0.1:{free_port()}/api.php"
    result = call("config", "check", "--probe", **COMPLETE, QUANTAPAY_URL=url)
    assert result.exit_code == 1
    assert "upstream-unavailable" in result.stderr


def test_a_probe_of_a_bad_configuration_calls_nobody(quantapay: str) -> None:
    result = call("config", "check", "--probe", QUANTAPAY_URL=quantapay)
    assert result.exit_code == 2
    with httpx.Client(base_url=quantapay) as http:
        assert http.get("/../simulator/calls").json() == {"calls": []}


# openapi


def test_the_specification_that_is_printed_is_the_one_in_the_repository() -> None:
    result = call("openapi")
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["openapi"].startswith("3.1")
    assert result.stdout == (ROOT / "openapi" / "openapi.yaml").read_text(encoding="utf-8"), "run `make openapi`"


# Ports


def test_the_simulator_runs_until_it_is_told_to_stop(home: Path) -> None:
    port = free_port()
    program = Program("simulator", "--port", str(port), "--api-key", API_KEY, cwd=home)
    try:
        call = {"function": "get-balances", "api-key": API_KEY}
        url = f"http://127.0.0.1:{port}/api.php"

        def answered() -> httpx.Response | None:
            try:
                return httpx.post(url, data=call)
            except httpx.TransportError:
                program.running()
                return None

        assert until(answered).json()["success"] is True
        assert url in program.out
        program.send(signal.SIGINT)
        assert program.wait() == 0
        assert program.err == ""
    finally:
        program.close()


def test_sigterm_is_a_normal_end_of_the_simulator_too(home: Path) -> None:
    port = free_port()
    program = Program("simulator", "--port", str(port), cwd=home)
    try:
        until(lambda: reachable(port), what="it listens")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    finally:
        program.close()


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "GATEWAY_OPS_PORT"])
def test_a_taken_port_ends_serve_with_1_and_the_name_of_its_variable(home: Path, taken: str, variable: str) -> None:
    ports = {"GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0", variable: taken}
    result = run("serve", cwd=home, **COMPLETE, **ports)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"127.0.0.1:{taken}" in result.stderr
    assert f"choose another with {variable}" in result.stderr


def test_a_host_that_is_not_ours_is_told_in_one_line(home: Path) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        result = run("serve", cwd=home, **COMPLETE, GATEWAY_HOST=host, GATEWAY_PORT="0", GATEWAY_OPS_PORT="0")
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert host in result.stderr
        assert "GATEWAY_HOST" in result.stderr


def test_a_taken_port_ends_the_simulator_with_1(taken: str) -> None:
    result = call("simulator", "--port", taken)
    assert result.exit_code == 1
    assert f"port {taken}" in result.stderr
    assert "http://" not in result.stdout, "it does not say that it runs"


def test_an_embedded_valkey_that_cannot_start_is_told_in_one_line(home: Path) -> None:
    (home / "data").write_text("not a directory")
    ports = {"GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0"}
    embedded = {**COMPLETE, "GATEWAY_REDIS_URL": "embedded", "GATEWAY_DATA_DIR": "data"}
    result = run("serve", cwd=home, **embedded, **ports)
    assert result.returncode == 1
    assert "cannot use" in result.stderr
    assert result.stderr.count("\n") == 1
