"""Process that kills the Airflow processes when their parent was killed.

A killed parent cannot clean up after itself, but its end of the pipe to this process closes. (Linux'
parent-death signal reaches direct children only, and is tied to the starting thread, not to the process.)

Lines on standard input: ``+ID`` and ``-ID`` add and remove a session; ``done`` ends the guard.
"""

import contextlib
import os
import signal
import sys
import time

import psutil  # type: ignore[import-untyped]


def end_sessions(sessions: set[int]) -> bool:
    """Send SIGKILL to all members of the sessions; return whether none was left."""
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
    """Read commands until the end of input; then kill the remaining sessions."""
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
