"""Fixture of the scenarios: a private Airflow, two emulators, and a handle of each render."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import TestAirflow
from local_airflow import TaskProcess

from airflow_provider_seedance.emulator.faults import Fault
from airflow_provider_seedance.emulator.ledger import RequestEntry, SubmissionEntry
from airflow_provider_seedance.ledger.task_state import STATE_KEY
from airflow_provider_seedance.submission.store import GENERATION_KEY
from airflow_provider_seedance.testing import SeedanceEmulator

#: Not a word that could stand in a log for any other reason.
API_KEY = "sk-scenarios-4c1d77b0e2"

#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0

#: Seconds between the polls of a sync worker that is to notice nothing by itself.
NEVER = 3600.0

SERVICES = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "runbase", "ark")


def first_of(*values: Any) -> list[Any]:
    """Return parameters of which only the first is played always, the variants by ``make test-versions``."""
    variants = (value if isinstance(value, tuple) else (value,) for value in values[1:])
    return [values[0], *(pytest.param(*value, marks=pytest.mark.variant) for value in variants)]


def conn(service: str) -> str:
    """Return the id of a connection to a service."""
    return service.replace("-", "_")


_ENDED = frozenset({"success", "failed", "skipped"})
_WITHOUT_WORKER = {"deferrable": True, "poll_interval": 1}
_ON_WORKER = {"deferrable": False, "poll_interval": 1}
#: A worker that waits for a render and does not look: it stands after the id until it is killed.
STANDS_AFTER_ID = {"deferrable": False, "poll_interval": NEVER}


@dataclass
class AirflowFixture:
    """
    An Airflow with connections to two emulators.

    :param rendering: Its renders leave the queue at once and go on until the test ends them.
    :param queueing: Its renders stay in the queue until the test ends them; connection ``ark_queue``.
    """

    airflow: TestAirflow
    rendering: SeedanceEmulator
    queueing: SeedanceEmulator
    folder: Path
    stopped: threading.Event = field(default_factory=threading.Event)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def video(self, conn_id: str = "ark", *, dag_id: str | None = None, **options: Any) -> Task:
        """Return the handle of a video task that has not started; see :class:`Task`."""
        return self._task("video", conn_id, dag_id, options)

    def image(self, conn_id: str, **options: Any) -> Task:
        """Return the handle of an image task that has not started; see :class:`Task`."""
        return self._task("image", conn_id, None, options)

    def _task(self, kind: str, conn_id: str, dag_id: str | None, options: dict[str, Any]) -> Task:
        retries = options.pop("retries", 0)
        return Task(
            airflow=self,
            conn_id=conn_id,
            emulator=self.queueing if conn_id == "ark_queue" else self.rendering,
            dag_id=dag_id or f"{kind}_{retries}",
            # No number is part of another one.
            word=f"No. {next(self._numbers)}.",
            **options,
        )

    def until(self, look: Callable[[], Any], what: str, task: Task | None = None) -> Any:
        """Wait until something is true, and return it."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := look()):
            if self.stopped.is_set():
                raise RuntimeError(f"stopped while waiting for {what}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no sign of {what}" + (f"\n{task.story()}" if task else ""))
            time.sleep(0.25)
        return found


@dataclass
class Task:
    """
    One render: its task instance at Airflow, and what the emulator has of it.

    :param arguments: Of the operator.
    :param later: Arguments that differ from the second try on.
    :param prompt: Text after the word that marks this render's requests.
    :param pause_at: Point at which the first try stands still until it is killed: ``start``, ``id`` or ``resume``.
    :param items: Prompts, for the mapped Dag.
    :param items_later: Prompts from the second try of the task that lists them on; reversed if not given.
    """

    airflow: AirflowFixture
    conn_id: str
    emulator: SeedanceEmulator
    dag_id: str
    word: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = "A paper boat in the rain"
    pause_at: str | None = None
    items: tuple[str, ...] = ()
    items_later: tuple[str, ...] = ()
    task_id: str = "render"
    map_index: int = -1
    run_id: str = ""

    # ------------------------------------------------------------------ what happens to it

    def start(self) -> Task:
        """Trigger the Dag run."""
        arguments = {
            "seedance_conn_id": self.conn_id,
            "prompt": f"{self.word} {self.prompt}",
            **_WITHOUT_WORKER,
            **self.arguments,
        }
        self.run_id = self.airflow.airflow.trigger(
            self.dag_id,
            conf={
                "arguments": arguments,
                "later": {**_ON_WORKER, **self.later},
                "pause_at": self.pause_at,
                "paused": str(self._paused),
                "items": [f"{self.word} {item}" for item in self.items],
                "items_later": [f"{self.word} {item}" for item in self.items_later],
            },
        )
        return self

    def fault(self, kind: str, **options: Any) -> Fault:
        """Add a fault to the requests of this render; see the emulator."""
        return self.emulator.fault(kind, prompt=f"{self.word}*", **options)

    def kill(self, **how: Any) -> TaskProcess:
        """SIGKILL the process that executes it, or as :meth:`LocalAirflow.kill_task` does."""
        place = (self.dag_id, self.run_id, self.task_id, self.map_index)
        return self.airflow.airflow.kill_task(*place, timeout=TIMEOUT_SECONDS, **how)

    def kill_after_post(self, *, answers: bool = True, supervisor: bool = False) -> Task:
        """Start it, and kill it while its request is at the service, which takes it unless it never ``answers``."""
        fault = self.fault("hold_reply") if answers else self.fault("delay", hold=True)
        self.start()
        self.until_struck(fault)
        assert self.record["state"] == "intent"
        self.kill(supervisor=supervisor)
        if answers:
            fault.release()
        return self

    def enter_again(self, how: str) -> None:
        """Lose the worker; then Airflow retries, or a person clears the failed task."""
        self.kill()
        if how == "clear":
            self.until("failed")
            self.clear()

    def clear(self, *, keep_task_state: bool = True) -> None:
        """Clear it, and nothing else."""
        if self.state in _ENDED:
            self.until_run_ended()
        which = self.task_id if self.map_index < 0 else (self.task_id, self.map_index)
        self.airflow.airflow.clear(self.dag_id, self.run_id, [which], keep_task_state=keep_task_state)

    def mark(self, state: str) -> None:
        """Mark it ``failed``, ``success`` or ``skipped``."""
        self.airflow.airflow.mark(self.dag_id, self.run_id, self.task_id, state, self.map_index)

    # ------------------------------------------------------------------ waiting

    def until(self, *states: str, try_number: int | None = None) -> str:
        """Wait until it is in one of the states, in that try if one is named."""
        wanted = " or ".join(states) + (f" in try {try_number}" if try_number else "")

        def look() -> str | None:
            row = self.row
            hit = row.get("state") in states and try_number in (None, row["try_number"])
            return str(row["state"]) if hit else None

        return str(self.airflow.until(look, f"{self.dag_id} being {wanted}", self))

    def until_run_ended(self) -> None:
        """
        Wait until the Dag run has ended.

        The scheduler may end a run whose task was cleared just now; then the task does not run.
        """
        self.airflow.until(
            lambda: self.airflow.airflow.run_state(self.dag_id, self.run_id) in _ENDED,
            "the end of the run",
            self,
        )

    def until_recorded(self, state: str = "submitted") -> str | None:
        """Wait until the record has this state; return the id of the generation in it."""
        self.airflow.until(lambda: self.record.get("state") == state, f"the record being {state!r}", self)
        found: str | None = self.record["generation_id"]
        return found

    def until_paused(self) -> None:
        """Wait until the first try stands still."""
        self.airflow.until(self._paused.exists, f"the task standing still at {self.pause_at}", self)

    def go_on(self) -> None:
        """Let the try go on that stands still."""
        self._paused.unlink()

    def until_says(self, *sentences: str, try_number: int | None = None) -> None:
        """Wait until the log, or the triggerer's own, says all of this."""

        def look() -> bool:
            log = self.log(try_number) + self._triggerer_log
            return all(sentence in log for sentence in sentences)

        self.airflow.until(look, f"{sentences} in the log", self)

    def until_taken(self, count: int = 1) -> None:
        """Wait until the service has taken this number of submissions."""
        self.airflow.until(lambda: len(self.taken) == count, f"submission {count}", self)

    def until_struck(self, fault: Fault, times: int = 1) -> None:
        """Wait until a fault has struck."""
        self.airflow.until(lambda: fault.used >= times, f"fault {fault.kind}", self)

    def until_remote(self, status: str) -> None:
        """Wait until the newest render is in this state at the service."""
        self.airflow.until(
            lambda: self.emulator.generation(self.generations[-1]).status == status,
            f"a render {status}",
            self,
        )

    def until_deferred(self) -> str:
        """Wait until it waits for a render without a worker; return the id."""
        self.until("deferred")
        return str(self.until_recorded())

    # ------------------------------------------------------------------ at Airflow

    @property
    def row(self) -> dict[str, Any]:
        """Its task instance; empty while there is none."""
        return self.airflow.airflow.task_instance(self.dag_id, self.run_id, self.task_id, self.map_index)

    @property
    def state(self) -> str | None:
        """Its state."""
        return self.row.get("state")

    @property
    def tries(self) -> int:
        """The number of its latest try."""
        return int(self.row["try_number"])

    @property
    def store(self) -> dict[str, Any]:
        """All it has in the task state store."""
        return self.airflow.airflow.state_store(self.dag_id, self.run_id, self.task_id, self.map_index)

    @property
    def record(self) -> dict[str, Any]:
        """Its record in the task state store; empty while there is none."""
        found = self.store.get(STATE_KEY)
        return found["records"][GENERATION_KEY] if isinstance(found, dict) else {}

    @property
    def result(self) -> dict[str, Any]:
        """Return its result; empty without one."""
        found = self.airflow.airflow.xcom(self.dag_id, self.run_id, self.task_id, map_index=self.map_index)
        return found or {}

    def log(self, try_number: int | None = None) -> str:
        """Its log: of one try, or of all."""
        return self.airflow.airflow.task_log(
            self.dag_id, self.run_id, self.task_id, try_number, self.map_index
        )

    @property
    def _triggerer_log(self) -> str:
        """
        The lines of the triggerer's own log that name a generation of this task.

        Airflow writes the last lines of a trigger there if it reads that the trigger has finished before it
        reads the lines: they come through two sockets (``TriggerRunnerSupervisor``, Airflow 3.3).
        """
        path = self.airflow.airflow.home / "logs" / "triggerer.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(line for line in lines if any(paid in line for paid in self.generations))

    def item(self, index: int) -> Task:
        """One of the mapped task instances."""
        return Task(**{**vars(self), "map_index": index})

    # ------------------------------------------------------------------ at the service

    @property
    def posts(self) -> int:
        """Return the number of its submit requests, accepted or not."""
        return sum(self.word in json.dumps(entry.body) for entry in self.emulator.ledger.posts())

    @property
    def taken(self) -> list[SubmissionEntry]:
        """The submissions that the service took: what is billed."""
        return [entry for entry in self.emulator.ledger.submissions if entry.prompt.startswith(self.word)]

    @property
    def generations(self) -> list[str]:
        """The ids of what the service took, oldest first."""
        return [entry.generation_id for entry in self.taken]

    def requests(self, kind: str) -> list[RequestEntry]:
        """The requests of a kind about its generations."""
        mine = set(self.generations)
        return [
            entry
            for entry in self.emulator.ledger.requests
            if entry.kind == kind and entry.generation_id in mine
        ]

    @property
    def cancels(self) -> int:
        """Return the number of its cancel requests."""
        return len(self.requests("cancel"))

    def finish(self) -> None:
        """Let the newest render end well."""
        self.emulator.finish(self.generations[-1])

    # ------------------------------------------------------------------ judging

    def check(self, state: str, *, posts: int, taken: int | None = None, cancels: int = 0) -> None:
        """Compare what became of it, and what was paid."""
        found = (self.state, self.posts, len(self.taken), self.cancels)
        wanted = (state, posts, posts if taken is None else taken, cancels)
        assert found == wanted, f"(state, posts, taken, cancels)\n{self.story()}"
        if state == "success":
            assert self.result["status"] == "succeeded"
            assert self.result["urls"]
            if self.result["media"] == "video":
                assert self.result["generation_id"] in self.generations

    def check_delivered(self, generation_id: str | None, *, posts: int = 1, cancels: int = 0) -> None:
        """It succeeded with this generation."""
        self.check("success", posts=posts, cancels=cancels)
        assert self.result["generation_id"] == generation_id, self.story()

    def deliver(self, generation_id: str | None, *, try_number: int | None = None) -> None:
        """Let the newest render end well; the task succeeds with this generation, the only one that was paid for."""
        self.finish()
        self.until("success", try_number=try_number)
        self.check_delivered(generation_id)

    def submit_anew(
        self, *, try_number: int = 2, posts: int = 2, taken: int | None = None, cancels: int = 0
    ) -> None:
        """The task submits once more; let that render end well, and the task succeeds with it."""
        self.until_taken(posts if taken is None else taken)
        self.finish()
        self.until("success", try_number=try_number)
        self.check("success", posts=posts, taken=taken, cancels=cancels)
        if self.result["media"] == "video":
            assert self.result["generation_id"] == self.generations[-1]

    def story(self) -> str:
        """All that helps to find out why something went differently."""
        return "\n".join(
            [
                f"{self.dag_id} {self.run_id} {self.word} state {self.state}",
                f"store: {self.store}",
                *(
                    f"{entry.method} {entry.path} -> {entry.status} {entry.generation_id}"
                    for entry in self.emulator.ledger.requests
                    if self.word in json.dumps(entry.body) or entry.generation_id in set(self.generations)
                ),
                self.log(),
            ]
        )

    @property
    def _paused(self) -> Path:
        return self.airflow.folder / f"{self.word.strip('.')}-paused"
