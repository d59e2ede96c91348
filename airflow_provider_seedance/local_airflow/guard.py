"""Runs as a process of its own, and ends the Airflow processes when the one that started them vanished.

A parent that is killed cannot clean up after itself. Its end of the pipe to this process closes all
the same, and that is the sign. (Linux' parent-death signal would reach only direct children, and is
tied to the starting thread rather than to the process.)

Lines on standard input: ``+ID`` and ``-ID`` add and remove a session; ``done`` means that all is well.
"""

import contextlib
import os
import signal
import sys
import time

import psutil  # type: ignore[import-untyped]


def end_sessions(sessions: set[int]) -> bool:
    """Send SIGKILL to all members of the sessions; whether there was none left."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) in sessions:
                members.append(pid)
    for pid in members:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return not members


def main() -> None:
    """Follow the instructions until the end of input; then end what is left."""
    sessions: set[int] = set()
    for line in sys.stdin:
        word = line.strip()
        if word == "done":
            return
        if word.startswith("+"):
            sessions.add(int(word[1:]))
        elif word.startswith("-"):
            sessions.discard(int(word[1:]))
    for _ in range(100):
        if end_sessions(sessions):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
