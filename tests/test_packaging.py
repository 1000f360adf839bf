"""What is shipped and how it is built: the locks, the wheel, the image, the commands."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME, DEV, BUILD = "requirements.lock", "requirements-dev.lock", "requirements-build.lock"
LOCKS = [RUNTIME, DEV, BUILD]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


class Pin(NamedTuple):
    """One entry of a lock file."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return str(self.requirement.specifier).removeprefix("==")


def statements(lock: str) -> Iterator[str]:
    """The logical lines of a lock file: comments gone, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return (line for line in text.replace("\\\n", " ").splitlines() if line.strip())


def pins(lock: str) -> list[Pin]:
    """The entries of a lock file; anything else in it is an error."""
    found = []
    for statement in statements(lock):
        requirement, *hashes = re.split(r"\s+(?=--hash)", statement.strip())
        found.append(Pin(Requirement(requirement), tuple(hashes)))
    return found


def versions(lock: str) -> set[tuple[str, str]]:
    return {(pin.name, pin.version) for pin in pins(lock)}


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for extra in extras.values() for line in extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_pinned_exactly_and_carries_hashes(lock: str) -> None:
    assert pins(lock)
    for pin in pins(lock):
        assert re.fullmatch(r"==[0-9][^,*]*", str(pin.requirement.specifier)), pin
        assert pin.hashes, pin
        assert all(HASH.fullmatch(value) for value in pin.hashes), pin


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_an_index_an_address_or_a_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|file:| @ |(^|\s)/|--(extra-)?index|--find-links|--trusted-host", text)
    assert re.search(r"^#\s+make lock$", text, re.MULTILINE), "the header must not repeat one machine's command line"


@pytest.mark.parametrize("subset", [RUNTIME, BUILD])
def test_what_is_shipped_has_the_versions_that_were_tested(subset: str) -> None:
    assert versions(subset) <= versions(DEV)


def test_every_declared_dependency_has_a_lower_bound() -> None:
    unbounded = [
        str(requirement)
        for requirement in declared()
        if not any(clause.operator in {">=", "==", "~="} for clause in requirement.specifier)
    ]
    assert not unbounded


def test_the_locks_satisfy_what_pyproject_declares() -> None:
    locked = dict(versions(DEV))
    missed = [
        f"{requirement}, locked: {locked.get(canonicalize_name(requirement.name))}"
        for requirement in declared()
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert not missed, "run make lock"


def test_the_runtime_lock_has_what_a_deployment_needs_and_no_tools() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"] + extras["embedded"] + extras["otel"] + extras["sandbox"]
    locked = {pin.name for pin in pins(RUNTIME)}
    assert {canonicalize_name(Requirement(line).name) for line in needed} <= locked
    assert locked.isdisjoint({"pytest", "mypy", "ruff", "hypothesis"})


def test_the_build_lock_satisfies_the_build_system() -> None:
    locked = dict(versions(BUILD))
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_wheel_holds_every_file_of_the_package_and_the_program(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "gateway").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not sources - names, "an ignore rule keeps these files out of the wheel"
    assert {"gateway/py.typed", "gateway/access/limits.lua"} <= names
    assert not {name for name in names if name.startswith("tests/")}
    assert "quantapay-gateway = gateway.cli:main" in entry_points


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile as pairs of name and arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)]


def final_stage() -> dict[str, str]:
    """The last of each instruction in the stage that is shipped."""
    instructions = dockerfile()
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return dict(instructions[start:])


def test_the_image_runs_as_a_numeric_user_other_than_root() -> None:
    user, _, group = final_stage()["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_starts_the_gateway_as_the_process_that_receives_signals() -> None:
    final = final_stage()
    assert json.loads(final["ENTRYPOINT"]) + json.loads(final["CMD"]) == ["quantapay-gateway", "serve"]
    assert final["STOPSIGNAL"] == "SIGTERM"


def test_the_image_installs_nothing_that_is_not_locked_by_hash() -> None:
    installs = [
        command
        for name, arguments in dockerfile()
        if name == "RUN"
        for command in arguments.split("&&")
        if re.search(r"\bpip\b.* install\b", command)
    ]
    assert installs
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-index" in command, command


def health_check() -> str:
    _, _, command = final_stage()["HEALTHCHECK"].partition(" CMD ")
    program, flag, source = json.loads(command)
    assert (program, flag) == ("python", "-c")
    return source


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
async def test_the_health_check_believes_livez_on_the_configured_port(status: int, healthy: bool) -> None:
    requests = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        proxied = {"GATEWAY_PORT": str(port), "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", health_check(), env=os.environ | proxied)
        assert (await process.wait() == 0) is healthy
    assert requests == [b"GET /livez HTTP/1.1"]


def test_the_build_context_is_a_list_of_what_may_enter() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for name, arguments in dockerfile()
        if name == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    }
    assert copied == allowed
    assert not [path for path in copied if not (ROOT / path).exists()]


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_executable_well_formed_and_stop_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=10)
    assert re.search(r"^set -eu", script.read_text(), re.MULTILINE)


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=10
    ).stdout


def test_make_without_a_target_lists_every_target() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"run", "test", "check", "install", "lock", "clean"} <= set(targets)
    listed = make()
    for target in targets:
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE), target


def test_every_script_has_a_target_and_no_target_calls_the_system_package_manager() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"scripts/([a-z]+)", makefile)) == {script.name for script in SCRIPTS}
    for text in (makefile, *(script.read_text() for script in SCRIPTS)):
        assert not re.search(r"(^|[;&|]|sudo)\s*apt(-get|itude)?\s", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("python", "message"),
    [("no-such-python", "there is no no-such-python here"), ("old-python", "Python 3.11 or newer is needed")],
)
def test_install_says_which_interpreter_it_needs(tmp_path: Path, python: str, message: str) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    environment = os.environ | {"PYTHON": python, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "scripts" / "install"], env=environment, capture_output=True, text=True, timeout=10, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr


def test_the_license_named_in_the_metadata_is_the_one_in_the_file() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_oldest_python_of_the_metadata_is_the_one_that_install_and_the_image_name() -> None:
    oldest = SpecifierSet(PROJECT["project"]["requires-python"])
    assert oldest == SpecifierSet(">=3.11")
    assert "(3, 11)" in (ROOT / "scripts" / "install").read_text()
    assert "--python-version 3.11" in (ROOT / "scripts" / "lock").read_text()
    assert dict(dockerfile())["ARG"].startswith("PYTHON=3.11-")


@pytest.mark.parametrize("name", ["scripts/install", "Dockerfile", "README.md"])
def test_a_lock_is_installed_as_it_is_and_not_resolved_again(name: str) -> None:
    """A release of coverage once broke every install: pip took it for `coverage[toml]` and found no hash for it."""
    commands = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "--require-hashes" in line]
    assert commands
    assert all("--no-deps" in command for command in commands)
