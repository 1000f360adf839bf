"""Become a program that dies with its parent: `python tether.py PARENT-PID PROGRAM ARGUMENT…`.

Linux kills a process that asked for it (prctl, PR_SET_PDEATHSIG) when its parent dies, however that happens, and
keeps the wish through `exec`. This file is run as a script of its own, not imported, between the parent's fork and
the program: `subprocess`'s `preexec_fn` would run the same code in a copy of a process with threads, which may
hang. It needs nothing but the standard library. Elsewhere than on Linux it only runs the program.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, program: str, arguments: list[str]) -> None:  # pragma: no cover - becomes another program
    """Tie this process to its parent and run `program` in its place, with an empty environment."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent died before it could be watched")
    # Empty, because the gateway's environment holds secrets that the program has no use for.
    os.execve(program, [program, *arguments], {})  # noqa: S606 - the one purpose of this file


if __name__ == "__main__":  # pragma: no cover
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
