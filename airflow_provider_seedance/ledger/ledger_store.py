"""The record store on the ledger: one row per submission, which outlives tries, clears and Dag runs."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, case, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import MAX_ARGUMENTS, Generation, Unit, utc_now
from airflow_provider_seedance.ledger import account
from airflow_provider_seedance.ledger.configuration import LedgerConfig, local_now
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import (
    RECORD_COLUMNS,
    LedgerEntry,
    TaskIdentity,
    details_columns,
    public_result,
    stored_result,
)
from airflow_provider_seedance.ledger.packing import DAMAGE, pack, unpack
from airflow_provider_seedance.ledger.reservations import BudgetUse, crossed, reserve
from airflow_provider_seedance.ledger.reusable import find_reusable
from airflow_provider_seedance.ledger.search_text import INCOMPLETE, NO_WORDS
from airflow_provider_seedance.ledger.stored_files import find_copy
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import GENERATION_KEY, RecordStore, SubmissionDetails
from airflow_provider_seedance.version_compat import COMMAND_WORDS

log = logging.getLogger(__name__)

_KEY = (submissions.c.instance, submissions.c.record_key, submissions.c.number)

# Made once: SQLAlchemy takes longer to make a statement than PostgreSQL to execute it.
_ENTRIES = (
    select(*_KEY[1:], *(submissions.c[name] for name in ("result", "record", *RECORD_COLUMNS)))
    .where(submissions.c.instance == bindparam("instance"))
    .order_by(submissions.c.created_at, *_KEY[1:])
)
_INSERT = insert(submissions)
_OF_KEY = update(submissions).where(*(column == bindparam(f"this_{column.name}") for column in _KEY))
_UPDATE_IN_STATES = _OF_KEY.where(submissions.c.state.in_(bindparam("in_states", expanding=True)))
_TEXT = submissions.c.search_text
# The words of what was taken over for a registered key are not known.
_UPDATE = _OF_KEY.values(search_text=case((_TEXT == NO_WORDS, INCOMPLETE), else_=_TEXT))


class LedgerStore(RecordStore):
    """
    Records of a task instance in the ledger.

    :param database: Of the ledger.
    :param task: The task instance.
    :param earlier: Store of the records from before the ledger was configured, and of the ids of callbacks.
    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(
        self,
        database: Database,
        task: TaskIdentity,
        earlier: RecordStore,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(sleep=sleep)
        self._database = database
        self._task = task
        self._earlier = earlier
        self._loaded = False
        #: The submissions of each key, oldest first.
        self._entries: dict[str, list[LedgerEntry]] = {}
        #: The cost of each key, the sums, and the keys that have changed since.
        self._counted: dict[tuple[str, Unit], float] = {}
        self._committed: dict[Unit, float] = dict.fromkeys(MAX_ARGUMENTS, 0.0)
        self._uncounted: set[str] = set()

    @classmethod
    def open(cls, config: LedgerConfig, context: Any, earlier: RecordStore) -> LedgerStore:
        """Return the records of the task instance that is running."""
        return cls(Database(config), TaskIdentity.of(config.namespace, context), earlier)

    @property
    def durable(self) -> bool:
        """Return ``True``: records outlive the try."""
        return True

    @property
    def survives_clear(self) -> bool:
        """Return ``True``: a clear of the task changes nothing in the ledger."""
        return True

    def committed(self, unit: Unit) -> float:
        """Return the cost of every submission; a sum that is kept up, because a batch reads it at each one."""
        self.load()
        for key in self._uncounted:
            record = self._current(key).record if key in self._entries else None
            for name in MAX_ARGUMENTS:
                cost = record.committed(name) if record else 0.0
                self._committed[name] += cost - self._counted.get((key, name), 0.0)
                self._counted[key, name] = cost
        self._uncounted.clear()
        return self._committed[unit]

    # ------------------------------------------------------------------ reading

    def load(self, deferred: Any = None) -> None:
        """Read all records, with one query."""
        if self._loaded:
            return
        self._entries = self._read_entries()
        if not self._entries:
            self._take_over()
        for value in deferred if isinstance(deferred, list) else []:
            self._merge_deferred(_unpack(value))
        self._uncounted.update(self._entries)
        self._loaded = True

    def _read_entries(self) -> dict[str, list[LedgerEntry]]:
        entries: dict[str, list[LedgerEntry]] = {}
        with self._database.reading() as connection:
            rows = connection.execute(_ENTRIES, {"instance": self._task.instance}).mappings().all()
        for row in rows:
            try:
                entries.setdefault(row["record_key"], []).append(LedgerEntry.of_row(row))
            except DAMAGE as error:
                raise _unreadable("a row was damaged, or written by something else") from error
        return entries

    def _take_over(self) -> None:
        """Take over the records from before the ledger was configured."""
        records = self._earlier.records()
        if not records:
            return
        log.info("Taking over %d records of this task from Airflow's task state store.", len(records))
        self._entries = {key: [LedgerEntry(key, record=record)] for key, record in records.items()}
        self.flush()

    def _merge_deferred(self, records: Mapping[str, Record | None]) -> None:
        """Take over the ids that a deferral carried and that are missing in the ledger."""
        for key, record in records.items():
            if key not in self._entries:
                # The deferral is from before the ledger was configured.
                self._entries[key] = [LedgerEntry(key, record=record)]
                continue
            entry = self._entry_of(key, record) if record and record.generation_id else None
            if entry and entry.record and not entry.record.generation_id:
                entry.record, entry.dirty = record, True

    def records(self) -> Mapping[str, Record | None]:
        """Return the records of all registered keys."""
        self.load()
        return {key: self._current(key).record for key in self._entries}

    def read(self, key: str) -> Record | None:
        """Return the record of a key, or ``None`` if nothing was submitted for it."""
        self.load()
        return self._current(key).record if key in self._entries else None

    def callback_ids(self, nonce: str) -> list[str]:
        """Return the generation ids that callbacks named for a submission; never raises."""
        return self._earlier.callback_ids(nonce)

    def _current(self, key: str) -> LedgerEntry:
        """Return the latest submission that was sent, or may have been; without one, the latest entry."""
        entries = self._entries[key]
        return next((entry for entry in reversed(entries) if entry.was_submitted), entries[-1])

    def _entry_of(self, key: str, record: Record) -> LedgerEntry | None:
        """Return the entry of the submission that a record is about."""
        for entry in self._entries.get(key, ()):
            if entry.record is not None and entry.record.intended_at == record.intended_at:
                return entry
        return None

    # ------------------------------------------------------------------ writing

    def register(self, keys: Iterable[str]) -> None:
        """Put keys on record before anything is submitted for them."""
        self.load()
        for key in keys:
            self._entries.setdefault(key, [LedgerEntry(key)])
        self.flush()

    def update(self, key: str, record: Record) -> None:
        """Change a record in memory, to be written by the next :meth:`flush`."""
        self.load()
        self._uncounted.add(key)
        entry = self._entry_of(key, record) or self._new_entry(key)
        entry.record, entry.dirty = record, True
        entries = self._entries[key]
        for later in entries[entries.index(entry) + 1 :]:
            # The service rejected a newer submission, and the record of this one is restored.
            if later.record and later.record.state is RecordState.INTENT:
                later.record = replace(later.record, state=RecordState.NOT_SUBMITTED)
                later.dirty = True

    def _new_entry(self, key: str) -> LedgerEntry:
        """Return the entry for a new submission: the last one, if nothing was submitted for it."""
        entries = self._entries.setdefault(key, [])
        if not entries or entries[-1].was_submitted:
            entries.append(LedgerEntry(key, number=max((entry.number for entry in entries), default=0) + 1))
        entries[-1].result = None
        return entries[-1]

    def flush(self) -> None:
        """Write every change in one transaction."""
        dirty = [entry for entries in self._entries.values() for entry in entries if entry.dirty]
        if not dirty:
            return
        with self._database.transaction() as connection:
            if new := [self._new_row(entry) for entry in dirty if not entry.stored]:
                # Rows of one statement have the same columns.
                for names in {tuple(row) for row in new}:
                    connection.execute(_INSERT, [row for row in new if tuple(row) == names])
            if changed := [self._changed_row(entry) for entry in dirty if entry.stored and entry.record]:
                connection.execute(_UPDATE, changed)
        for entry in dirty:
            entry.stored, entry.dirty = True, False

    def write(self, key: str, record: Record) -> None:
        """Write a record now."""
        try:
            self.update(key, record)
            self.flush()
        except errors.SeedanceStateError as error:
            error.generation_id = record.generation_id
            raise

    def write_intent(self, key: str, record: Record, details: SubmissionDetails) -> Record:
        """Write the record of a submission that is sent next, in a transaction of its own."""
        return self._write_new(key, record, details) or record

    def reuse(self, key: str, details: SubmissionDetails) -> Record | None:
        """Write the record of a generation of the same request that another task has paid for, if there is one."""
        return self._write_new(key, None, details)

    def _write_new(self, key: str, intent: Record | None, details: SubmissionDetails) -> Record | None:
        self.load()
        if details.budgets:
            self.flush()  # budgets count the rows: what has ended must not stay reserved
        self._uncounted.add(key)
        entry = self._new_entry(key)
        before, uses, written = entry.record, list[BudgetUse](), None
        columns = details_columns(self._task, details, prompts=self._database.config.prompts)
        try:
            with self._database.transaction() as connection:
                if written := find_reusable(connection, self._task, key, details.reuse):
                    columns["reuse_key"] = None  # the row of the task that has paid has it
                elif written := intent:
                    uses = reserve(connection, self._task, details, written, local_now())
                if written:
                    entry.record = written
                    self._insert_intent(connection, entry, columns)
        except errors.SeedanceError:
            # Nothing is sent without it, so no later write may contain it.
            _restore(self._entries, entry, before)
            raise
        if written:
            entry.stored, entry.dirty = True, False
            _report(uses, written)
        else:
            _restore(self._entries, entry, before)
        return written

    def _insert_intent(self, connection: Connection, entry: LedgerEntry, columns: dict[str, Any]) -> None:
        """Write an intent, unless another process has written one for the same key."""
        if not entry.stored:
            try:
                connection.execute(_INSERT, {**self._new_row(entry), **columns})
            except IntegrityError as error:
                raise _two_at_once() from error
            return
        # A rejection that could not be recorded has left the row as it was before.
        states = [RecordState.NOT_SUBMITTED.value, *([RecordState.INTENT.value] if entry.dirty else [])]
        changed = connection.execute(
            _UPDATE_IN_STATES, {**self._changed_row(entry), **columns, "in_states": states}
        )
        if changed.rowcount != 1:
            raise _two_at_once()

    def stored_copy(self, record: Record) -> Generation | None:
        """Return the generation of a record with the paths of its stored outputs, if all of them are there."""
        return find_copy(self._database, record)

    def try_write_end(self, key: str, record: Record, generation: Generation) -> None:
        """Write how a generation has ended; never raises."""
        try:
            self.load()
        except errors.SeedanceStateError as error:
            log.warning(
                "%s The end of generation %s is not recorded.", error.message, generation.generation_id
            )
            return
        if entry := self._entry_of(key, record):
            entry.result = public_result(generation.result())
        super().try_write_end(key, record, generation)

    def _new_row(self, entry: LedgerEntry) -> dict[str, Any]:
        return {
            **self._task.columns(),
            "record_key": entry.key,
            "number": entry.number,
            "created_at": utc_now(),
            **entry.columns(),
        }

    def _changed_row(self, entry: LedgerEntry) -> dict[str, Any]:
        key = {"instance": self._task.instance, "record_key": entry.key, "number": entry.number}
        return {**{f"this_{name}": value for name, value in key.items()}, **entry.columns()}

    # ------------------------------------------------------------------ the rest of the contract

    def results_not_persisted(self) -> set[str]:
        """Return the keys of the records whose results are not stored, because they could not be encrypted."""
        with_result = [
            (key, record.result) for key, record in self.records().items() if record and record.result
        ]
        return {key for key, result in with_result if not stored_result(result)}

    def for_deferral(self) -> list[dict[str, Any]] | None:
        """Write every change, and return the records that a deferral has to carry: those that are not in the ledger."""
        try:
            self.flush()
            return None
        except errors.SeedanceStateError as error:
            log.warning("%s The deferral carries these records.", error.message)
        dirty = {key: self._current(key).record for key in self._entries if self._current(key).dirty}
        return [pack(dirty)[0]] if dirty else None

    def durations(self, base_url: str, kinds: Iterable[str]) -> dict[str, list[float]]:
        """Return the seconds that the latest generations of kinds took; never raises."""
        return account.known_durations(self._database, self._task.namespace, base_url, kinds)

    def resolve_command(self, key: str) -> str:
        """Return the command with which a person settles an uncertain submission."""
        return _resolve_command(self._task, key)


def _resolve_command(task: TaskIdentity, key: str) -> str:
    words = [*COMMAND_WORDS, "ledger", "resolve", task.dag_id, task.run_id, task.task_id]
    if task.map_index >= 0:
        words += ["--map-index", str(task.map_index)]
    if task.loop_index >= 0:
        words += ["--loop-index", str(task.loop_index)]
    if key != GENERATION_KEY:
        words.append(f"--key={key}")
    return shlex.join(words)


def _restore(entries: dict[str, list[LedgerEntry]], entry: LedgerEntry, record: Record | None) -> None:
    entry.record = record
    if not entry.stored:
        entries[entry.key].remove(entry)
        if not entries[entry.key]:
            del entries[entry.key]


def _report(uses: Iterable[BudgetUse], record: Record) -> None:
    conn_id = str(record.conn_id)
    for use in uses:
        metrics.budget_used(conn_id, use.budget.per, use.share)
        if crossed(use, record):
            log.warning(
                "%.0f %% of the budget of %s of connection %r are used.", use.share * 100, use.budget, conn_id
            )


def _two_at_once() -> errors.SeedanceLedgerError:
    return errors.SeedanceLedgerError(
        "Another process has recorded a submission for the same task at this moment. Nothing was sent; the next try "
        "decides on its record."
    )


def _unpack(value: Any) -> dict[str, Record | None]:
    try:
        return unpack(value)
    except DAMAGE as error:
        raise _unreadable("what the deferral carries was damaged") from error


def _unreadable(why: str) -> errors.SeedanceRecordError:
    return errors.SeedanceRecordError(
        f"The records of this task's earlier submissions in the ledger cannot be understood ({why}); unreadable records "
        "are not the same as none, so nothing was submitted."
    )
