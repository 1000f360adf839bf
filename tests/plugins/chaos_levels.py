"""What a process holds: memory, open files, threads. On Linux, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Level:
    """What a process holds at one moment."""

    rss: float
    """Resident memory in MiB."""
    files: int
    """Open file descriptors."""
    threads: int


def level_of(pid: int) -> Level:
    """Look at a process; `OSError` if it is gone."""
    home = Path(f"/proc/{pid}")
    return Level(
        rss=int((home / "statm").read_text().split()[1]) * _PAGE_MIB,
        files=len(list((home / "fd").iterdir())),
        threads=len(list((home / "task").iterdir())),
    )
