"""State machine of a submission on the ledger: no clear discards anything, Dag runs are made again, the database fails."""

from __future__ import annotations

import atexit
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy.engine import Connection
from submission.service_model import RETRIES, Crash
from submission.submission_model import Machine
from support import Store

from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.ledger_store import LedgerStore
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore

_numbers = count()


@cache
def _config() -> LedgerConfig:
    directory = tempfile.TemporaryDirectory(prefix="seedance-ledger-", ignore_cleanup_errors=True)
    atexit.register(directory.cleanup)
    return LedgerConfig(location=f"sqlite:///{Path(directory.name) / 'ledger.db'}")


class _FaultyDatabase(Database):
    """Database with the faults of a state store."""

    def __init__(self, state: LedgerState) -> None:
        super().__init__(_config())
        self.state = state

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._ledger_errors():
            self.state.before("get")
        with super().reading() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        counted = self.state.writes
        with self._ledger_errors():
            self.state.before("set")
        with super().transaction() as connection:
            yield connection
        if self.state.dies_after == self.state.writes > counted:
            raise Crash


class LedgerState(Store):
    """Ledger of one task instance, which shows its record as the fake state store does."""

    def __init__(self) -> None:
        super().__init__()
        self.task = TaskIdentity(namespace="n", dag_id="dag", run_id=f"run {next(_numbers)}", task_id="task")
        self.writes = self.dies_after = 0

    def open(self, database: Database) -> LedgerStore:
        return LedgerStore(database, self.task, TaskStateStore(None), sleep=lambda seconds: None)

    @property
    def value(self) -> Any:
        record = self.open(Database(_config())).read(GENERATION_KEY)
        return record and record.as_dict()

    @value.setter
    def value(self, value: Any) -> None:
        raise NotImplementedError


class LedgerMachine(Machine):
    """A task that submits one generation with a ledger."""

    title = "a submission on the ledger"
    counts: ClassVar[Counter[str]] = Counter()

    @initialize(looks_up=st.booleans())
    def begin(self, looks_up: bool) -> None:
        super().begin(looks_up)
        self.store: LedgerState = LedgerState()
        self.runs = 0

    @property
    def ti_id(self) -> str:  # type: ignore[override]
        """Id that each try of each Dag run has of its own."""
        return f"{self.runs}.{self.try_number}"

    def record_store(self) -> RecordStore:
        return self.store.open(_FaultyDatabase(self.store))

    def set_trouble(self, trouble: str, at_write: int) -> None:
        super().set_trouble(trouble, at_write)
        fail = self.store.before
        self.store.writes, self.store.dies_after = 0, at_write if trouble == "dies after" else 0

        def before(what: str) -> None:
            fail(what)
            self.store.writes += what == "set"

        self.store.before = before

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule(keeps_state=st.booleans())
    def clear(self, keeps_state: bool) -> None:
        """A person clears the task, and its task state with it."""
        super().clear(True)

    @precondition(lambda self: self.entered and not self.cleared_now)
    @rule()
    def make_run_again(self) -> None:
        """A person deletes the Dag run, which is made again."""
        self.cleared_now = True
        self.leave()
        self.runs += 1
        self.max_tries, self.try_number, self.entered = RETRIES, 1, False
        self.count_clear()
