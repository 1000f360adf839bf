"""Fails if a request takes more instructions than it may, in terms of FastAPI's hello in the same run: `make guard`.

Instructions are counted by valgrind, so that it does not matter how fast or how busy the machine is.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence

from tests.guard.bounds import PYTHON, UNIT, Verdict, judge, proposed
from tests.guard.callgrind import CountFailed, count

WHAT_TO_DO = (
    "guard: find what came on to its path since the guard last passed. If that is worth its price, or hello became "
    "cheaper, take new bounds and say why (docs/performance.md, Guard)."
)


def arguments() -> argparse.ArgumentParser:
    """Return what can be asked for."""
    parser = argparse.ArgumentParser(prog="scripts/guard", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--measure", action="store_true", help="judge nothing; print new bounds for tests/guard/bounds.py"
    )
    return parser


def table(counts: Mapping[str, int], verdicts: Sequence[Verdict]) -> str:
    """Return what was counted, a line a kind of request."""
    lines = [f"{'request':<14}{'instructions':>14}{'in terms of hello':>20}{'at most':>10}"]
    lines.append(f"{UNIT:<14}{counts[UNIT]:>14,}")
    for verdict in verdicts:
        kept = "" if verdict.is_kept else "   too much"
        lines.append(f"{verdict.name:<14}{counts[verdict.name]:>14,}{verdict.ratio:>20.2f}{verdict.bound:>10.2f}{kept}")
    return "\n".join(lines)


def complaints(verdicts: Sequence[Verdict]) -> list[str]:
    """Say what is wrong, a line a kind of request, and then what to do; nothing if nothing is."""
    lines = [
        f"guard: {one.name} takes {one.ratio:.2f} times the instructions of hello, and may take {one.bound:.2f}"
        for one in verdicts
        if not one.is_kept
    ]
    return [*lines, WHAT_TO_DO] if lines else []


def require(asked: argparse.Namespace) -> None:
    """End if there is nothing to count with, or nothing to compare with."""
    if shutil.which("valgrind") is None:
        sys.exit("guard: not found: valgrind. On Debian and Ubuntu: apt install valgrind")
    if sys.version_info[:2] != PYTHON and not asked.measure:
        wanted, here = ".".join(map(str, PYTHON)), platform.python_version()
        print(f"guard: skipped, as its bounds are of Python {wanted} and this is {here}")  # noqa: T201
        sys.exit(1 if os.environ.get("STRICT") == "1" else 0)


def main() -> None:
    """Count, print and judge."""
    asked = arguments().parse_args()
    require(asked)
    try:
        counts = count()
    except CountFailed as error:
        sys.exit(f"guard: nothing was counted: {error}")
    verdicts = judge(counts)
    print(table(counts, verdicts))  # noqa: T201 - its figures are its report
    if asked.measure:
        for name, bound in proposed(counts).items():
            print(f'    "{name}": {bound:.2f},')  # noqa: T201
        return
    if wrong := complaints(verdicts):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
