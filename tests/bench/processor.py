"""Processor time, from Linux's /proc: of a process and of all that it started, and what the host gave to others."""

import os
from collections.abc import Iterator
from pathlib import Path

from tests.plugins.processes import children_of


def tree(pid: int) -> Iterator[int]:
    """Yield a process, its children, theirs and so on."""
    yield pid
    for child in children_of(pid):
        yield from tree(child)


def seconds(pid: int) -> float:
    """Return the seconds of processor, user and system, that a process and all that it started have used so far.

    Counted in steps of 10 ms a process (`proc_pid_stat(5)`). Children that have ended count with their parent.
    """
    ticks = 0
    for member in tree(pid):
        stat = Path(f"/proc/{member}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += sum(map(int, stat[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def stolen() -> float:
    """Return the seconds that the host of a virtual machine has so far given to others while this one wanted them.

    Summed up over all processors, in steps of 10 ms (`proc_stat(5)`); always 0 on a machine of its own.
    """
    total = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()
    return int(total[8]) / os.sysconf("SC_CLK_TCK")
