"""The processes of a private Airflow: start them, find all they started, and end them.

Every component leads a session of its own. Task runners form process groups of their own, and
processes whose parent died get another parent, but the session stays the same: it is what tells
which processes belong to which component.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped]

# The process that executes the operator names itself after the id of the task instance, once it has
# its orders and before it imports the Dag. Its supervisor has a longer title of the executor's.
_RUNNER_TITLE = re.compile(r"airflow worker -- ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


@dataclass(frozen=True)
class TaskProcess:
    """A task instance that is being executed: who executes it, and who watches over that."""

    ti_id: str
    runner: psutil.Process
    supervisor: psutil.Process | None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    try_number: int | None = None


def session_members(sessions: Iterable[int]) -> list[int]:
    """The ids of all live processes of the sessions (zombies are not alive)."""
    import psutil

    wanted = set(sessions)
    members = []
    for pid in psutil.pids():
        # A process of somebody else's, or one that ended since it was listed.
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in wanted and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def send(pids: Iterable[int], sig: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


def end_sessions(sessions: Iterable[int], timeout: float = 10.0) -> None:
    """SIGKILL everything in the sessions, and wait until nothing is left of them."""
    wanted = set(sessions)
    deadline = time.monotonic() + timeout
    while members := session_members(wanted):
        send(members, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {members} do not end")
        time.sleep(0.05)


def running_tasks(session: int) -> list[tuple[str, psutil.Process, psutil.Process | None]]:
    """What is being executed below a scheduler: task instance id, task runner, supervisor."""
    import psutil

    found = []
    for pid in session_members([session]):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            title = " ".join(process.cmdline()).replace("\0", " ").strip()
            if match := _RUNNER_TITLE.fullmatch(title):
                parent = process.parent()
                # An orphaned runner has been given to init, or to whichever process collects orphans.
                is_ours = parent is not None and os.getsid(parent.pid) == session
                found.append((match[1], process, parent if is_ours else None))
    return found


@dataclass
class Component:
    """One process of Airflow that we start, and all that it starts in turn."""

    name: str
    arguments: list[str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    # Whether it was ended on purpose: then nobody is to complain that it is dead.
    ended: bool = True
    # The largest id in the job table before the start: a larger one is this start's.
    jobs_before: int = 0
    started_at: float = field(default=0.0)

    def start(self, python: str, environment: Mapping[str, str], directory: Path) -> int:
        """Start it as the leader of a session of its own; returns its process id."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  (our own arguments)
                [python, "-m", "airflow", *self.arguments],
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal reaches only us: we stop the others, in order.
                start_new_session=True,
            )
        self.ended = False
        self.started_at = time.monotonic()
        return self.process.pid

    def died(self) -> bool:
        """Whether it ended without having been told to."""
        return not self.ended and self.process is not None and self.process.poll() is not None

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return tail(self.log_path, lines)


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log file; empty when there is none yet."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class Guard:
    """The process that ends the sessions when this process is gone; see `guard.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (our own script)
            [sys.executable, str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def add(self, session: int) -> None:
        """Have this session ended when we vanish."""
        self._tell(f"+{session}")

    def remove(self, session: int) -> None:
        """This session has ended; its number may belong to somebody else soon."""
        self._tell(f"-{session}")

    def dismiss(self) -> None:
        """All is well: the guard leaves."""
        self._tell("done")
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, word: str) -> None:
        # A guard that somebody killed must not break an orderly stop.
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{word}\n".encode())
                self._process.stdin.flush()
