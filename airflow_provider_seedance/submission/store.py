"""
The interface of the stores that keep the records of a task instance.

A store keeps one record per key: :data:`GENERATION_KEY` for a task that submits one generation, and one key
per item for a batch (:func:`~airflow_provider_seedance.submission.records.record_keys`).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.generations import Generation, Unit
from airflow_provider_seedance.submission import timing
from airflow_provider_seedance.submission.records import Record, RecordState, with_id

log = logging.getLogger(__name__)

Reuse = Literal["task", "dag", "any"]

#: Key of the record of a task that submits one generation.
GENERATION_KEY = "generation"


@dataclass(frozen=True, kw_only=True)
class ReuseSearch:
    """
    Search for a generation of the same request that another task has paid for, at any connection of this one.

    :param scope: Dags that are searched.
    :param intents: For each connection, by the key of the request there, the intent in whose place the record of the
        generation is written.
    :param unusable_ids: Generations that were found before, and cannot be delivered.
    """

    scope: Literal["dag", "any"]
    intents: Mapping[str, Record]
    unusable_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class SubmissionDetails:
    """
    Description of a submission beyond its record, for stores that account for it.

    :param item_key: The user's key, for an item of a batch.
    :param budgets: Budgets of the connection.
    :param reuse: Search that comes before the submission.
    :param reuse_key: Key by which other tasks find it; ``None`` if it cannot be reused.
    """

    prompt: str
    item_key: str | None = None
    budgets: tuple[Budget, ...] = ()
    reuse: ReuseSearch | None = None
    reuse_key: str | None = None


class RecordStore(ABC):
    """
    Records of the submissions of one task instance.

    The contract of every store:

    * An intent is durable when :meth:`write_intent` returns. If it raises, nothing may be submitted, and no later
      write contains the intent.
    * Records that cannot be read are an error, never an empty store.
    * The id of a billed generation is written by :meth:`write_with_retries`, which never raises. What it could
      not write stays in memory, is written by the next :meth:`flush`, and is part of :meth:`for_deferral`.
    * Records never expire.

    Every method that reads raises :class:`~airflow_provider_seedance.exceptions.SeedanceStateError` if the store
    cannot be reached (a retry helps), and :class:`~airflow_provider_seedance.exceptions.SeedanceRecordError` if
    its content cannot be understood. Every method that writes raises the former, unless it says otherwise.

    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    @property
    @abstractmethod
    def durable(self) -> bool:
        """Return whether records outlive the try."""

    @property
    @abstractmethod
    def survives_clear(self) -> bool:
        """Return whether records outlive every clear of the task instance."""

    @abstractmethod
    def committed(self, unit: Unit) -> float:
        """Return the cost of every submission of the task instance, also of those that later ones replaced."""

    @abstractmethod
    def load(self, deferred: Any = None) -> None:
        """
        Read all records; without this call they are read when first needed.

        :param deferred: Value of :meth:`for_deferral` before the deferral; its ids are taken over where the
            store does not have them.
        """

    @abstractmethod
    def records(self) -> Mapping[str, Record | None]:
        """Return the records of all registered keys; ``None`` where nothing was submitted yet."""

    @abstractmethod
    def callback_ids(self, nonce: str) -> list[str]:
        """
        Return the generation ids that callbacks named for a submission; never raises.

        :param nonce: Of the submission's record.
        """

    @abstractmethod
    def register(self, keys: Iterable[str]) -> None:
        """Put keys on record before anything is submitted for them, so that a retry recognizes a changed list."""

    @abstractmethod
    def update(self, key: str, record: Record) -> None:
        """Change a record in memory, to be written by the next :meth:`flush`."""

    @abstractmethod
    def flush(self) -> None:
        """Write every change."""

    @abstractmethod
    def write(self, key: str, record: Record) -> None:
        """Write a record now."""

    @abstractmethod
    def results_not_persisted(self) -> set[str]:
        """Return the keys of the records whose results the store has no room for."""

    @abstractmethod
    def for_deferral(self) -> Any:
        """Return the records that a deferral has to carry, as a JSON value: those that are not in the store."""

    def read(self, key: str) -> Record | None:
        """Return the record of a key, or ``None`` if nothing was submitted for it."""
        return self.records().get(key)

    def write_intent(self, key: str, record: Record, details: SubmissionDetails) -> Record:
        """
        Write the record of a submission that is sent next; see :meth:`write`.

        :return: The written record. If it names a generation, which another task has paid for, nothing may be submitted.
        :raises SeedanceBudgetError: it would exceed a budget; nothing may be submitted.
        :raises SeedanceRateLimitError: another task is submitting the same request; likewise.
        :raises SeedanceConfigurationError: the store keeps no budgets, or the price is not known; likewise.
        """
        if details.budgets:
            raise errors.SeedanceConfigurationError(
                f"Connection {record.conn_id!r} has budgets, which need a ledger: set [seedance] ledger. "
                "Nothing was sent."
            )
        self.write(key, record)
        return record

    def reuse(self, key: str, details: SubmissionDetails) -> Record | None:
        """
        Write the record of a generation of the same request that another task has paid for; ``None`` if there is none.

        :raises SeedanceRateLimitError: another task is submitting the same request.
        :raises SeedanceConfigurationError: the store does not know other tasks.
        """
        scope = details.reuse.scope if details.reuse else "task"
        raise errors.SeedanceConfigurationError(
            f"reuse={scope!r} needs a ledger: set [seedance] ledger. Nothing was sent."
        )

    def stored_copy(self, record: Record) -> Generation | None:
        """Return the generation of a record with the paths of its stored outputs, if there are such."""
        return None

    def try_write_end(self, key: str, record: Record, generation: Generation) -> None:
        """Write how a generation has ended; never raises."""
        self.try_write(key, record, "The next try asks the service how the generation ended.")

    def durations(self, base_url: str, kinds: Iterable[str]) -> dict[str, list[float]]:
        """
        Return the seconds that the latest generations of kinds took at a service, oldest first; never raises.

        :param kinds: See :func:`~airflow_provider_seedance.polling.duration_model.kind_of`.
        """
        return {}

    def resolve_command(self, key: str) -> str | None:
        """Return the command with which a person settles an uncertain submission, where there is one."""
        return None

    def orphans(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of submissions whose keys are not among these."""
        own = set(keys)
        return {
            key: record
            for key, record in self.records().items()
            if key not in own and record is not None and record.state is not RecordState.NOT_SUBMITTED
        }

    def try_write(
        self,
        key: str,
        record: Record,
        consequence: str = "The next try will treat this submission as uncertain.",
    ) -> None:
        """Write a record without which a later try is only more careful; never raises."""
        try:
            self.write(key, record)
        except errors.SeedanceStateError as error:
            log.warning("%s %s", error.message, consequence)

    def backfill_id(self, key: str, record: Record, generation_id: str) -> Record:
        """Write the id that only the deferral carried, because the store did not take it; never raises."""
        record = with_id(record, generation_id)
        self.try_write(key, record, f"The id of generation {generation_id} still cannot be recorded.")
        return record

    def write_with_retries(self, key: str, record: Record) -> bool:
        """Write the record of a billed generation; logs every failure, and never raises."""
        for pause in (*timing.TIMING.write_backoff, None):
            try:
                self.write(key, record)
                return True
            except errors.SeedanceStateError as error:
                log.error(
                    "Generation %s was submitted and is billed, but its id could not be recorded: %s %s",
                    record.generation_id,
                    error.message,
                    "Trying again."
                    if pause is not None
                    else "If this task fails now, a retry cannot find it.",
                )
            if pause is not None:
                self._sleep(pause)
        return False
