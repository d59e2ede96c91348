"""
The records of a campaign: one per render, many of them in each value of the task state store.

A campaign has thousands of renders, and the store answers one request per value, so the records are kept
in groups of a hundred, written as :mod:`airflow_provider_seedance.batch.record_codec` says. What they mean is what
:mod:`airflow_provider_seedance.submission.records` says: each is read and written as a
:class:`~airflow_provider_seedance.submission.records.Record`, by the same code that submits a single render.

A record belongs to a *take*: the fingerprint of a request and a number that tells identical requests of
one list apart. Where it stands in the list does not matter.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.record_codec import (
    LONGEST_VALUE,
    Entry,
    Failure,
    completed,
    kept_results,
    read_entries,
    size,
    told_credits,
    write_entries,
)
from airflow_provider_seedance.generations import read_number
from airflow_provider_seedance.submission.records import Fingerprint, Record, RecordState, RecordStore
from airflow_provider_seedance.version_compat import never_expire

log = logging.getLogger(__name__)

#: Key of the first group; the others follow with a number. Renaming it would orphan renders in flight.
LEDGER_KEY = "seedance_batch"

#: Version of the form. One of a newer version is not understood, and never overwritten.
VERSION = 1

#: Records in one value of the store.
GROUP_SIZE = 100

#: What reading something that is no record of ours may raise.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


def record_keys(fingerprints: Iterable[Fingerprint]) -> list[str]:
    """Return what each request's record is called: identical requests of one list are takes 0, 1, 2 …"""
    seen: dict[str, int] = {}
    names = []
    for fingerprint in fingerprints:
        digest = _digest(fingerprint)
        take = seen.get(digest, 0)
        seen[digest] = take + 1
        names.append(f"{digest}.{take}")
    return names


def _digest(fingerprint: Fingerprint) -> str:
    parts = [fingerprint.api, fingerprint.base_url, fingerprint.media]
    parts += [f"{name}={digest}" for name, digest in sorted(fingerprint.arguments.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@dataclass(slots=True)
class _Group:
    number: int
    entries: dict[str, Entry] = field(default_factory=dict)
    dirty: bool = False


class BatchRecordStore:
    """
    All records of a batch task.

    :param accessor: ``context["task_state_store"]``, or ``None`` below Airflow 3.3: then the records are
        carried by the deferral, see :meth:`carried`, and nothing outlives the try.
    """

    def __init__(self, accessor: Any | None) -> None:
        self._accessor = accessor
        self._groups: list[_Group] = []
        self._where: dict[str, _Group] = {}
        self._replaced: dict[str, tuple[str | None, float]] = {}
        #: Credits of renders whose records were replaced by those of newer ones.
        self.spent_before = 0.0
        #: Numbers of groups that could not be written; what they tell must not be lost with this entry.
        self._unwritten: set[int] = set()

    @property
    def durable(self) -> bool:
        """Whether the records outlive the try."""
        return self._accessor is not None

    # ------------------------------------------------------------------ reading

    def load(self, carried: Any = None) -> None:
        """
        Read every record; takes one read of the store for each hundred.

        :param carried: What :meth:`carried` returned before the deferral: all records below Airflow 3.3,
            otherwise those that could not be written.
        :raises SeedanceStateError: the store could not be read; a retry helps.
        :raises SeedanceRecordError: what is there cannot be understood.
        """
        carried = carried if isinstance(carried, list) else []
        if self._accessor is None:
            values = carried
        else:
            first = self._get(0)
            values = [] if first is None else [first, *self._rest(first)]
        for number, value in enumerate(values):
            self._take_in(number, value)
        if self._accessor is not None:
            for value in carried:
                self._take_over(value)

    def _take_over(self, value: Any) -> None:
        """Put what the deferral carried in the place of what the store does not know."""
        try:
            entries = read_entries(value)
        except _DAMAGE as error:
            raise _unreadable() from error
        for name, entry in entries.items():
            group = self._where.get(name)
            if group is None or entry.record is None or entry.record.generation_id is None:
                continue
            stored = group.entries[name].record
            if stored is None or stored.generation_id is None:
                group.entries[name] = entry
                group.dirty = True

    def _rest(self, first: Any) -> list[Any]:
        count = first.get("groups") if isinstance(first, dict) else None
        if not isinstance(count, int) or not 1 <= count <= 10_000:
            raise _unreadable()
        rest = [self._get(number) for number in range(1, count)]
        if any(value is None for value in rest):
            raise errors.SeedanceRecordError(
                "A part of this task's records of earlier submissions is missing from the task state store; "
                "missing records are not the same as none, so nothing was submitted. Look for the generations "
                f"in the console of the service, then delete the states {LEDGER_KEY!r} … of this task instance."
            )
        return rest

    def _get(self, number: int) -> Any:
        assert self._accessor is not None
        try:
            return self._accessor.get(_key(number))
        except Exception as error:
            raise errors.SeedanceStateError(
                f"Airflow's task state store could not be read ({type(error).__name__}: {error}), so it is "
                "unknown what earlier tries have submitted. Nothing was submitted; retry later."
            ) from error

    def _take_in(self, number: int, value: Any) -> None:
        try:
            if value["version"] != VERSION:
                raise _unreadable(f"version {value['version']!r}, this package reads {VERSION}")
            group = _Group(number, read_entries(value))
            if number == 0:
                self.spent_before = float(read_number(value.get("spent_before")) or 0.0)
        except _DAMAGE as error:
            raise _unreadable() from error
        self._groups.append(group)
        self._where.update(dict.fromkeys(group.entries, group))

    # ------------------------------------------------------------------ what is known

    @property
    def empty(self) -> bool:
        """Whether no entry into this task ever got as far as to write records."""
        return not self._groups

    def known(self, name: str) -> bool:
        """Whether a take is on record, even if nothing was sent for it."""
        return name in self._where

    def others(self, names: Iterable[str]) -> dict[str, Entry]:
        """Return what is known of submissions that none of these takes is."""
        mine = set(names)
        found = {}
        for name, group in self._where.items():
            record = group.entries[name].record
            if name not in mine and record is not None and record.state is not RecordState.NOT_SUBMITTED:
                found[name] = group.entries[name]
        return found

    def told(self, name: str) -> float | None:
        """Return the credits that the service told for the render of a take."""
        group = self._where.get(name)
        return group.entries[name].told if group else None

    def record(self, name: str) -> Record | None:
        """Return the record of a take; ``None`` if nothing was sent for it yet."""
        group = self._where.get(name)
        return group.entries[name].record if group else None

    def failure(self, name: str) -> Failure | None:
        """Return how the render of a take failed, if it did."""
        group = self._where.get(name)
        return group.entries[name].failure if group else None

    def store(self, name: str, fingerprint: Fingerprint) -> ItemRecordStore:
        """Return the store of one take's record."""
        return ItemRecordStore(self, name, fingerprint)

    # ------------------------------------------------------------------ writing

    def register(self, names: Iterable[str]) -> None:
        """
        Put takes on record before anything is sent, so that a retry can tell a changed list.

        :raises SeedanceStateError: they could not be written; nothing was submitted.
        """
        new = [name for name in names if name not in self._where]
        for name in new:
            group = next((group for group in self._groups if len(group.entries) < GROUP_SIZE), None)
            if group is None:
                group = _Group(len(self._groups))
                self._groups.append(group)
            group.entries[name] = Entry()
            group.dirty = True
            self._where[name] = group
        if new and self._groups:
            self._groups[0].dirty = True  # it says how many there are
        self.flush()

    def note(self, name: str, record: Record | None, failure: Failure | None = None) -> None:
        """Change what is known of a take; written with the next :meth:`flush`."""
        group = self._where[name]
        before = group.entries[name]
        self._count_replaced(name, before, record)
        told = told_credits(record)
        if told is None and before.record and record and before.record.generation_id == record.generation_id:
            told = before.told
        group.entries[name] = Entry(record=record, failure=failure, told=told)
        group.dirty = True

    def _count_replaced(self, name: str, entry: Entry, record: Record | None) -> None:
        """Keep count of what a render has cost whose record makes room for that of another one."""
        before = entry.record
        if before is None or record is None:
            return
        spent = 0.0
        if record.state is RecordState.INTENT and before.state is not RecordState.NOT_SUBMITTED:
            spent = entry.credits
            self._replaced[name] = (before.generation_id, spent)
        elif before.state is RecordState.INTENT and name in self._replaced:
            # The new one was not taken, and the record of the old one is put back.
            generation_id, credits = self._replaced.pop(name)
            spent = -credits if record.generation_id == generation_id else 0.0
        if spent:
            self.spent_before += spent
            self._groups[0].dirty = True

    def flush(self) -> None:
        """
        Write what changed, later groups first: the first one tells how many there are.

        :raises SeedanceStateError: it could not be written.
        """
        if self._accessor is None:
            return
        for group in reversed(self._groups):
            if group.dirty:
                self._set(group)

    def _set(self, group: _Group) -> None:
        try:
            assert self._accessor is not None
            self._accessor.set(
                _key(group.number), self._value(group, longest=LONGEST_VALUE), retention=never_expire()
            )
            group.dirty = False
            self._unwritten.discard(group.number)
        except Exception as error:
            self._unwritten.add(group.number)
            raise errors.SeedanceStateError(
                f"Airflow's task state store could not be written ({type(error).__name__}: {error})."
            ) from error

    def write(self, name: str, record: Record) -> None:
        """
        Write the record of one take now.

        :raises SeedanceStateError: it could not be written.
        """
        before, spent = self._where[name].entries[name], self.spent_before
        self.note(name, record)
        try:
            self.flush()
        except errors.SeedanceStateError:
            if record.state is RecordState.INTENT:
                # Nothing is sent without it, so no later write may say that something was.
                self._where[name].entries[name], self.spent_before = before, spent
                self._replaced.pop(name, None)
            raise

    def without_room(self) -> set[str]:
        """Return the names of the takes whose results the store has no room for."""
        if self._accessor is None:
            return set()
        return {
            name
            for group in self._groups
            for name in {
                name for name, entry in group.entries.items() if entry.record and entry.record.result
            }
            - kept_results(self._value(group, longest=LONGEST_VALUE))
        }

    def carried(self) -> list[dict[str, Any]] | None:
        """Return the records for the deferral to carry: those that the store does not keep, if any."""
        if self._accessor is None:
            return [self._value(group, longest=None) for group in self._groups]
        unwritten = [group for group in self._groups if group.number in self._unwritten]
        return [self._value(group, longest=None) for group in unwritten] or None

    def _value(self, group: _Group, *, longest: int | None) -> dict[str, Any]:
        value: dict[str, Any] = {"version": VERSION}
        if group.number == 0:
            value |= {"groups": len(self._groups), "spent_before": self.spent_before}
        room = None if longest is None else longest - size(value)
        return {**value, **write_entries(group.entries, longest=room)}


class ItemRecordStore(RecordStore):
    """The record of one take, for the code that submits a single render."""

    def __init__(
        self,
        ledger: BatchRecordStore,
        name: str,
        fingerprint: Fingerprint,
        *,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(None, **({"sleep": sleep} if sleep else {}))
        self._ledger = ledger
        self._name = name
        self._fingerprint = fingerprint

    @property
    def durable(self) -> bool:
        """Whether the record outlives the try."""
        return self._ledger.durable

    def read(self) -> Record | None:
        """Return the record, or ``None`` if there is none."""
        record = self._ledger.record(self._name)
        return record and completed(record, self._fingerprint)

    def write(self, record: Record) -> None:
        """
        Write the record.

        :raises SeedanceStateError: it could not be written.
        """
        self._ledger.write(self._name, record)


def _key(number: int) -> str:
    return f"{LEDGER_KEY}_{number}" if number else LEDGER_KEY


def _unreadable(why: str = "it was damaged, or written by something else") -> errors.SeedanceRecordError:
    return errors.SeedanceRecordError(
        f"The records of this task's earlier submissions cannot be understood ({why}); unreadable records are "
        "not the same as none, so nothing was submitted. Look for the generations in the console of the "
        f"service, then delete the states {LEDGER_KEY!r} … of this task instance."
    )
