"""Start, find and end the processes of a private Airflow.

Every component leads a session of its own. Task runners form process groups of their own, and
orphaned processes get another parent, but the session of a process never changes: it identifies the component.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Title of the process that executes the operator: it contains the id of the task instance, and is set before
# the Dag is imported. The supervisor has a longer title, set by the executor.
_RUNNER_TITLE = re.compile(r"airflow worker -- ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


@dataclass(frozen=True)
class TaskProcess:
    """The processes of a task instance that is being executed."""

    ti_id: str
    runner: psutil.Process
    supervisor: psutil.Process | None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    try_number: int | None = None


def session_members(sessions: Iterable[int]) -> list[int]:
    """Return the ids of all live processes (no zombies) of the sessions."""
    wanted = set(sessions)
    members = []
    for pid in psutil.pids():
        # Another user's process, or one that has ended since it was listed.
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in wanted and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def send(pids: Iterable[int], sig: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def end_sessions(sessions: Iterable[int], timeout: float = 60.0) -> None:
    """Send SIGKILL to all processes of the sessions, and wait for their end."""
    wanted = set(sessions)
    deadline = time.monotonic() + timeout
    while members := session_members(wanted):
        send(members, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {members} do not end")
        time.sleep(0.05)


def running_tasks(session: int) -> list[TaskProcess]:
    """Return the task instances that a scheduler or a worker executes, by their ids only."""
    found = []
    for pid in session_members([session]):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            title = " ".join(process.cmdline()).replace("\0", " ").strip()
            if match := _RUNNER_TITLE.fullmatch(title):
                parent = process.parent()
                # An orphaned runner's parent is init or another process that collects orphans.
                is_ours = parent is not None and os.getsid(parent.pid) == session
                found.append(TaskProcess(match[1], process, parent if is_ours else None))
    return found


@dataclass
class Component:
    """A process of Airflow with all its child processes."""

    name: str
    arguments: list[str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    # Whether it was ended on purpose, so that its end does not count as an error.
    ended: bool = True
    # The largest id in the job table before the start: a larger one belongs to this start.
    jobs_before: int = 0

    def start(self, environment: Mapping[str, str], directory: Path) -> int:
        """Start it as the leader of a session of its own and return its process id."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *self.arguments],
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal reaches only this process, which stops the others in order.
                start_new_session=True,
            )
        self.ended = False
        return self.process.pid

    def died(self) -> bool:
        """Return whether it ended unexpectedly."""
        return not self.ended and self.process is not None and self.process.poll() is not None

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log, or an empty text if there is none yet."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Guard:
    """Handle of the process that kills the sessions when this process is gone; see `guard.py`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def add(self, session: int) -> None:
        """Add a session to kill when this process is gone; the first one starts the guard."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("guard.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        self._write(f"+{session}")

    def remove(self, session: int) -> None:
        """Remove a session that has ended; the system may reuse its id."""
        self._write(f"-{session}")

    def dismiss(self) -> None:
        """End the guard without killing anything."""
        if self._process is not None:
            self._process.communicate("done\n")
            self._process = None

    def _write(self, word: str) -> None:
        # A guard that was killed must not break an orderly stop.
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{word}\n")
                self._process.stdin.flush()
