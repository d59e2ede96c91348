"""
The record store on Airflow's task state store, which outlives retries and clears (Airflow 3.3 and later).

The task state store answers one request per value, so the records of a batch are kept in groups of a
hundred. A single generation is a group of one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks.inbox import key_for, read_ids
from airflow_provider_seedance.generations import MAX_ARGUMENTS, Unit
from airflow_provider_seedance.ledger.packing import DAMAGE, pack, unpack
from airflow_provider_seedance.submission.records import Record, RecordState
from airflow_provider_seedance.submission.store import RecordStore
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS, never_expire

log = logging.getLogger(__name__)

#: Key of the first group; the following ones end with their number.
STATE_KEY = "seedance_records"

#: Records in a group, so that a group of packed records with their results stays below `MAX_VALUE_BYTES`.
GROUP_SIZE = 100

#: Limit of the records in a value: with the fields beside them it stays below the 64 KiB that Airflow warns of.
MAX_VALUE_BYTES = 62 * 1024

#: Limit of the number of groups; more is a damaged value.
_MAX_GROUPS = 10_000


@dataclass(slots=True)
class _Group:
    number: int
    keys: list[str] = field(default_factory=list)
    #: Whether it differs from what is stored.
    dirty: bool = False

    @property
    def state_key(self) -> str:
        return f"{STATE_KEY}_{self.number}" if self.number else STATE_KEY


class TaskStateStore(RecordStore):
    """
    Records of a task instance in Airflow's task state store.

    :param accessor: ``context["task_state_store"]``, or ``None`` below Airflow 3.3: then the records live as
        long as this process and the deferrals of this try.
    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(self, accessor: Any | None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(sleep=sleep)
        self._accessor = accessor
        self._loaded = False
        self._records: dict[str, Record | None] = {}
        self._groups: list[_Group] = []
        self._group_by_key: dict[str, _Group] = {}
        self._committed: dict[Unit, float] = dict.fromkeys(MAX_ARGUMENTS, 0.0)

    @property
    def durable(self) -> bool:
        """Return whether records outlive the try."""
        return self._accessor is not None

    @property
    def survives_clear(self) -> bool:
        """Return whether records outlive every clear: from Airflow 3.4 on, a user decides that at each clear."""
        return self.durable and not AIRFLOW_V_3_4_PLUS

    def committed(self, unit: Unit) -> float:
        """Return the cost of every submission; a sum that is kept up, because a batch reads it at each one."""
        self.load()
        return self._committed[unit]

    # ------------------------------------------------------------------ reading

    def load(self, deferred: Any = None) -> None:
        """Read all records, with one request per hundred."""
        if self._loaded:
            return
        self._records, self._groups, self._group_by_key = {}, [], {}
        carried = deferred if isinstance(deferred, list) else []
        for number, value in enumerate(carried if self._accessor is None else self._stored_values()):
            records = _unpack(value)
            group = _Group(number, list(records))
            self._groups.append(group)
            self._records |= records
            self._group_by_key |= dict.fromkeys(records, group)
        for unit in MAX_ARGUMENTS:
            self._committed[unit] = sum(_cost(record, unit) for record in self._records.values())
        if self._accessor is not None:
            for value in carried:
                self._merge_deferred(_unpack(value))
        self._loaded = True
        if carried:
            try:
                self.flush()  # a later failure would lose the ids that only the deferral has
            except errors.SeedanceStateError as error:
                log.error("%s A retry would not know what only the deferral has.", error.message)

    def _stored_values(self) -> list[Any]:
        first = self._get(_Group(0).state_key)
        if first is None:
            return []
        count = first.get("groups") if isinstance(first, dict) else None
        if not isinstance(count, int) or not 1 <= count <= _MAX_GROUPS:
            raise _unreadable("they were damaged, or written by something else")
        values = [first, *(self._get(_Group(number).state_key) for number in range(1, count))]
        if None in values:
            raise _unreadable("a part of them is missing")
        return values

    def _get(self, state_key: str) -> Any:
        assert self._accessor is not None
        try:
            return self._accessor.get(state_key)
        except Exception as error:
            raise errors.SeedanceStateError(
                f"Airflow's task state store could not be read ({type(error).__name__}: {error}), so it is "
                "unknown what earlier tries have submitted. Nothing was submitted; retry later."
            ) from error

    def _merge_deferred(self, records: Mapping[str, Record | None]) -> None:
        """Take over the ids that a deferral carried and that are missing in the store."""
        for key, record in records.items():
            stored = self._records.get(key)
            # An XCom of an earlier deferral may carry a submission that a later one has replaced.
            same = stored and record and stored.intended_at == record.intended_at
            if same and record and record.generation_id and not (stored and stored.generation_id):
                self._replace(key, record)

    def records(self) -> Mapping[str, Record | None]:
        """Return the records of all registered keys."""
        self.load()
        return self._records

    def callback_ids(self, nonce: str) -> list[str]:
        """Return the generation ids that callbacks named for a submission; never raises."""
        if self._accessor is None:
            return []
        try:
            return read_ids(self._accessor.get(key_for(nonce)))
        except Exception as error:
            log.warning("Callbacks of the service could not be read: %s", error)
            return []

    # ------------------------------------------------------------------ writing

    def register(self, keys: Iterable[str]) -> None:
        """Put keys on record before anything is submitted for them."""
        self.load()
        for key in keys:
            if key not in self._records:
                self._add_key(key)
        self.flush()

    def _add_key(self, key: str) -> None:
        group = next((group for group in self._groups if len(group.keys) < GROUP_SIZE), None)
        if group is None:
            group = _Group(len(self._groups))
            self._groups.append(group)
        group.keys.append(key)
        self._records[key] = None
        self._group_by_key[key] = group
        group.dirty = self._groups[0].dirty = True  # the first one contains the number of groups

    def update(self, key: str, record: Record) -> None:
        """Change a record in memory, to be written by the next :meth:`flush`."""
        self.load()
        if key not in self._records:
            self._add_key(key)
        self._replace(key, record)

    def _replace(self, key: str, record: Record | None) -> None:
        for unit in MAX_ARGUMENTS:
            self._committed[unit] += _cost(record, unit) - _cost(self._records[key], unit)
        self._records[key] = record
        self._group_by_key[key].dirty = True

    def flush(self) -> None:
        """Write every change, the first group last: it contains the number of groups."""
        if self._accessor is None:
            return
        for group in reversed(self._groups):
            if not group.dirty:
                continue
            try:
                value = self._value(group, MAX_VALUE_BYTES)
                self._accessor.set(group.state_key, value, retention=never_expire())
            except Exception as error:
                raise errors.SeedanceStateError(
                    f"Airflow's task state store could not be written ({type(error).__name__}: {error})."
                ) from error
            group.dirty = False

    def write(self, key: str, record: Record) -> None:
        """Write a record now."""
        before = self.read(key)
        self.update(key, record)
        try:
            self.flush()
        except errors.SeedanceStateError as error:
            if record.state is RecordState.INTENT:
                # Nothing is sent without it, so no later write may contain it, though its group may have been written.
                self._replace(key, before)
            error.generation_id = record.generation_id
            raise

    def results_not_persisted(self) -> set[str]:
        """Return the keys of the records whose results the store has no room for."""
        if self._accessor is None:
            return set()
        return set().union(*(self._pack(group, MAX_VALUE_BYTES)[1] for group in self._groups))

    def for_deferral(self) -> list[dict[str, Any]] | None:
        """Write every change, and return the records that a deferral has to carry: those that are not in the store."""
        try:
            self.flush()
        except errors.SeedanceStateError as error:
            log.warning("%s The deferral carries these records.", error.message)
        groups = [group for group in self._groups if group.dirty or self._accessor is None]
        return [self._value(group, None) for group in groups] or None

    def _value(self, group: _Group, max_bytes: int | None) -> dict[str, Any]:
        value, _ = self._pack(group, max_bytes)
        if group.number:
            return value
        return {"groups": len(self._groups), **value}

    def _pack(self, group: _Group, max_bytes: int | None) -> tuple[dict[str, Any], set[str]]:
        return pack({key: self._records[key] for key in group.keys}, max_bytes=max_bytes)


def _cost(record: Record | None, unit: Unit) -> float:
    return record.committed(unit) if record else 0.0


def _unpack(value: Any) -> dict[str, Record | None]:
    try:
        return unpack(value)
    except errors.SeedanceRecordError as error:
        raise _unreadable(error.message) from error
    except DAMAGE as error:
        raise _unreadable("they were damaged, or written by something else") from error


def _unreadable(why: str) -> errors.SeedanceRecordError:
    return errors.SeedanceRecordError(
        f"The records of this task's earlier submissions cannot be understood ({why.rstrip('.')}); unreadable "
        "records are not the same as none, so nothing was submitted. Look for the generations in the console of "
        f"the service, then delete the states {STATE_KEY!r} … of this task instance."
    )
