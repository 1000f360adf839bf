"""Runs `counted.py` under valgrind, and reads what it counted."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from gateway.store.embedded import EmbeddedValkey
from tests.bench.servers import ROOT, Server, generous_config, numbered_clients, variables
from tests.bench.wrk import CONNECTIONS
from tests.guard.counted import CLIENTS, CLIENTS_LIMIT, REQUESTS, WAVES
from tests.plugins.processes import clean_environ

NO_QUANTAPAY = Server("http://127.0.0.1:9", pid=0)
"""Nobody calls it: `counted.py` answers itself."""
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CountFailed(RuntimeError):
    """There is nothing to judge; the message says why."""


def count() -> dict[str, int]:
    """Return the instructions of a request, by its kind. Raises `CountFailed`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with EmbeddedValkey(folder / "valkey", durable=False) as valkey:
            _run(folder, valkey.url)
        return read(folder)


def read(folder: Path) -> dict[str, int]:
    """Read the counts of a run from what it left in `folder`.

    Each dump has what was counted since the one before: before a kind of request, and then its requests. The last,
    without a number, is about the end of the program.
    """
    expected = 2 * len(REQUESTS)
    dumps = sorted(folder.glob("counts.*"), key=lambda path: int(path.suffix[1:]))
    if len(dumps) != expected:
        raise CountFailed(f"callgrind wrote {len(dumps)} counts instead of {expected}")
    requests = WAVES * CONNECTIONS
    return {kind: total(dump.read_text()) // requests for kind, dump in zip(REQUESTS, dumps[1::2], strict=True)}


def total(dump: str) -> int:
    """Return the instructions of a dump of callgrind's."""
    found = _TOTALS.search(dump)
    if found is None:
        raise CountFailed("callgrind wrote no total")
    return int(found[1])


def _run(folder: Path, redis_url: str) -> None:
    config = generous_config()
    config["clients"] += numbered_clients(CLIENTS, rate_limit=CLIENTS_LIMIT)
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    environ = {
        **variables(NO_QUANTAPAY),
        "GATEWAY_REDIS_URL": redis_url,
        "QUANTAPAY_TIMEOUT": "300",
        "PYTHONHASHSEED": "0",  # the order of sets, and how often their members collide
        "PYTHONPATH": str(ROOT),
    }
    options = ["--instr-atstart=no", "--dump-before=getsid", "--dump-line=no", "--callgrind-out-file=counts"]
    command = ["valgrind", "--quiet", "--tool=callgrind", *options, sys.executable, "-m", "tests.guard.counted"]
    log = folder / "log"
    with log.open("wb") as output:
        # As in `serve`, a line a request goes to a file.
        done = subprocess.run(
            command,
            cwd=folder,
            env=clean_environ(**environ),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if '"level":"error"' in line]
        raise CountFailed(os.linesep.join([*lines[-5:], done.stderr]))
