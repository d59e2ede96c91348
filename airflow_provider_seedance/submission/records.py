"""
The record of a submission: what it says, what identifies a request, and where it is kept.

A record that cannot be read is not an empty one: every doubt here is an error, never ``None``.
:class:`RecordStore` keeps it in Airflow's task state store, which outlives retries and clears
(Airflow 3.3 and later). What to do with a record is decided in
:mod:`airflow_provider_seedance.submission.decisions`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks.inbox import key_for, read_ids
from airflow_provider_seedance.generations import (
    Generation,
    GenerationRequest,
    GenerationStatus,
    MediaInput,
    iso,
    read_time,
)
from airflow_provider_seedance.urls import without_query
from airflow_provider_seedance.version_compat import never_expire

log = logging.getLogger(__name__)

#: Key of the record in the task state store. Renaming it would orphan every render in flight.
RECORD_KEY = "seedance_generation"

#: Version of the record's form. A record of a newer one is not understood, and never overwritten.
VERSION = 1

#: Pauses between the tries to write down an id that is already paid for.
WRITE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


# ---------------------------------------------------------------------- fingerprint


#: Where a result is announced does not change what it is.
_CALLBACK_FIELDS = ("callback_url", "webhook_url")


def _plain(value: Any) -> Any:
    """Return a value in a form whose JSON is stable, with signed links reduced to what they point at."""
    if isinstance(value, MediaInput):
        return {"url": without_query(value.url), "role": value.role}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return without_query(value)
    return value


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """
    What identifies a request: service, base URL, and a digest per argument.

    Query and user info of media URLs do not count: presigned links change on every try. Arguments the
    user left out do not count either, so that a default may change under a render in flight.
    """

    api: str
    base_url: str
    media: str
    arguments: Mapping[str, str]

    @classmethod
    def of(cls, request: GenerationRequest, *, api: str, base_url: str) -> Fingerprint:
        """Take the fingerprint of a request as the user (and the connection) gave it."""
        digests = {
            name: _digest(value if name == "prompt" else _plain(value))
            for name, value in request.arguments().items()
        }
        extra = request.extra_params
        if isinstance(extra, Mapping) and not extra.keys().isdisjoint(_CALLBACK_FIELDS):
            kept = {name: value for name, value in extra.items() if name not in _CALLBACK_FIELDS}
            digests["extra_params"] = _digest(_plain(kept))
        return cls(api=api, base_url=base_url, media=request.media, arguments=digests)

    def differences(self, other: Fingerprint) -> list[str]:
        """Return the names of what differs."""
        found = [name for name in ("api", "base_url", "media") if getattr(self, name) != getattr(other, name)]
        names = sorted(set(self.arguments) | set(other.arguments))
        return found + [name for name in names if self.arguments.get(name) != other.arguments.get(name)]


#: Of no request in particular.
NO_REQUEST = Fingerprint(api="", base_url="", media="video", arguments={})


# ---------------------------------------------------------------------- record


class RecordState(StrEnum):
    """How far a submission came."""

    #: About to be sent, or sent; the id is not known.
    INTENT = "intent"
    #: As INTENT, and a task has failed because of it: clearing that task was a person's decision.
    UNCERTAIN = "uncertain"
    #: Provably nothing was billed: as good as no record.
    NOT_SUBMITTED = "not_submitted"
    #: The id is known.
    SUBMITTED = "submitted"
    #: The id is known, and how it ended.
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """
    The try of the task instance that is running.

    :param fingerprint: Of the request as it renders now.
    :param max_tries: Of the task instance. A clear raises it, an automatic retry does not; that is
        how the two are told apart.
    :param try_number: Of the task instance.
    """

    fingerprint: Fingerprint
    max_tries: int
    try_number: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    What is known of the latest submission of a task instance.

    :param correlation: Value sent along by which the service can find the generation again.
    :param callback_nonce: What a callback for this very submission carries; ``None`` where none was asked for.
    :param facts: What the request told of the result.
    :param result: The whole result of a synchronous answer: it stands nowhere else.
    :param status: How the generation ended.
    """

    state: RecordState
    fingerprint: Fingerprint
    max_tries: int
    try_number: int
    end_from_trigger: bool = False
    generation_id: str | None = None
    correlation: str | None = None
    callback_nonce: str | None = None
    result_defaults: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    status: GenerationStatus | None = None
    intended_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a JSON value."""
        return {
            "version": VERSION,
            "state": self.state.value,
            "fingerprint": {
                "api": self.fingerprint.api,
                "base_url": self.fingerprint.base_url,
                "media": self.fingerprint.media,
                "arguments": dict(self.fingerprint.arguments),
            },
            "max_tries": self.max_tries,
            "try_number": self.try_number,
            "end_from_trigger": self.end_from_trigger,
            "generation_id": self.generation_id,
            "correlation": self.correlation,
            "callback_nonce": self.callback_nonce,
            "result_defaults": dict(self.result_defaults),
            "result": dict(self.result) if self.result else None,
            "status": self.status.value if self.status else None,
            "intended_at": iso(self.intended_at),
            "submitted_at": iso(self.submitted_at),
            "ended_at": iso(self.ended_at),
        }

    @classmethod
    def from_value(cls, value: Any) -> Record:
        """
        Read what :meth:`as_dict` wrote.

        :raises SeedanceRecordError: it is something else, or of a newer version.
        """
        try:
            version = value["version"]
            if version != VERSION:
                raise errors.SeedanceRecordError(
                    f"The record of an earlier submission has version {version!r}, this package reads "
                    f"{VERSION}: it was written by another release of this package. Nothing was submitted. "
                    "Run the task with that release, or look the generation up at the service and delete "
                    f"the state {RECORD_KEY!r} of this task instance."
                )
            prints = value["fingerprint"]
            record = cls(
                state=RecordState(value["state"]),
                fingerprint=Fingerprint(
                    api=_typed(prints["api"], str),
                    base_url=_typed(prints["base_url"], str),
                    media=_typed(prints["media"], str),
                    arguments=_typed(prints["arguments"], dict),
                ),
                max_tries=_typed(value["max_tries"], int),
                try_number=_typed(value["try_number"], int),
                end_from_trigger=bool(value.get("end_from_trigger")),
                generation_id=_typed(value.get("generation_id"), str, NoneType),
                correlation=_typed(value.get("correlation"), str, NoneType),
                callback_nonce=_typed(value.get("callback_nonce"), str, NoneType),
                result_defaults=_typed(value.get("result_defaults"), dict, NoneType) or {},
                result=_typed(value.get("result"), dict, NoneType) or None,
                status=GenerationStatus(value["status"]) if value.get("status") else None,
                **{name: read_time(value.get(name)) for name in ("intended_at", "submitted_at", "ended_at")},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise errors.SeedanceRecordError(
                "The record of an earlier submission cannot be understood; an unreadable record is not an "
                "empty one, so nothing was submitted. Look for the generation in the console of the "
                f"service, then delete the state {RECORD_KEY!r} of this task instance."
            ) from error
        if record.state in (RecordState.SUBMITTED, RecordState.ENDED) and not record.generation_id:
            raise errors.SeedanceRecordError(
                "The record of an earlier submission says it was submitted but names no generation; "
                "nothing was submitted."
            )
        return record


def _typed(value: Any, *types: type) -> Any:
    """Return a value that is of one of these types; a damaged record may hold anything."""
    if type(value) not in types:
        raise TypeError(f"expected {' or '.join(kind.__name__ for kind in types)}, got {value!r:.80}")
    return value


def intent_record(
    attempt: Attempt,
    now: datetime,
    *,
    correlates: bool,
    result_defaults: Mapping[str, Any],
    end_from_trigger: bool,
    calls_back: bool = False,
) -> Record:
    """Return the record to write before a submission."""
    return Record(
        state=RecordState.INTENT,
        fingerprint=attempt.fingerprint,
        max_tries=attempt.max_tries,
        try_number=attempt.try_number,
        end_from_trigger=end_from_trigger,
        correlation=f"airflow-{secrets.token_hex(16)}" if correlates else None,
        callback_nonce=secrets.token_urlsafe(12) if calls_back else None,
        result_defaults=result_defaults,
        intended_at=now,
    )


def submitted(record: Record, generation: Generation, now: datetime, *, synchronous: bool) -> Record:
    """Return the record to write after a submission was accepted."""
    if generation.status.terminal:
        return replace(
            record,
            state=RecordState.ENDED,
            generation_id=generation.generation_id,
            status=generation.status,
            result=generation.result() if synchronous else None,
            submitted_at=now,
            ended_at=now,
        )
    return replace(
        record, state=RecordState.SUBMITTED, generation_id=generation.generation_id, submitted_at=now
    )


def ended(record: Record, generation: Generation, now: datetime) -> Record:
    """Return the record to write when the generation has ended."""
    return replace(record, state=RecordState.ENDED, status=generation.status, ended_at=now)


def taken_over(record: Record, attempt: Attempt, *, generation_id: str | None = None) -> Record:
    """Return the record as the present attempt takes it over."""
    return replace(
        record,
        state=RecordState.SUBMITTED if generation_id else record.state,
        generation_id=generation_id or record.generation_id,
        max_tries=attempt.max_tries,
        try_number=attempt.try_number,
    )


# ---------------------------------------------------------------------- store


class RecordStore:
    """
    The record of one task instance in Airflow's task state store.

    :param accessor: ``context["task_state_store"]``, or ``None`` below Airflow 3.3: then nothing is
        remembered beyond this process.
    :param sleep: Replaces :func:`time.sleep`, for tests.
    """

    def __init__(self, accessor: Any | None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._accessor = accessor
        self._sleep = sleep

    @property
    def durable(self) -> bool:
        """Whether a record outlives the process."""
        return self._accessor is not None

    def read(self) -> Record | None:
        """
        Return the record, or ``None`` if there is none.

        :raises SeedanceStateError: the store could not be read; a retry helps.
        :raises SeedanceRecordError: a record is there and cannot be understood.
        """
        if self._accessor is None:
            return None
        try:
            value = self._accessor.get(RECORD_KEY)
        except Exception as error:
            raise errors.SeedanceStateError(
                f"Airflow's task state store could not be read ({type(error).__name__}: {error}), so it is "
                "unknown whether an earlier try has submitted. Nothing was submitted; retry later."
            ) from error
        return None if value is None else Record.from_value(value)

    def called_back(self, nonce: str) -> list[str]:
        """Return the ids that callbacks told of a submission; none if none did, or nobody can tell."""
        if self._accessor is None:
            return []
        try:
            return read_ids(self._accessor.get(key_for(nonce)))
        except Exception as error:
            log.warning("Whether the service has called back could not be read: %s", error)
            return []

    def write(self, record: Record) -> None:
        """
        Write the record.

        :raises SeedanceStateError: it could not be written.
        """
        if self._accessor is None:
            return
        try:
            self._accessor.set(RECORD_KEY, record.as_dict(), retention=never_expire())
        except Exception as error:
            raise errors.SeedanceStateError(
                f"Airflow's task state store could not be written ({type(error).__name__}: {error}).",
                generation_id=record.generation_id,
            ) from error

    def complete(self, record: Record, generation_id: str) -> Record:
        """Write down an id that only the deferral knew: it could not be written when the service told it."""
        record = replace(record, state=RecordState.SUBMITTED, generation_id=generation_id)
        try:
            self.write(record)
        except errors.SeedanceStateError as error:
            log.error("The id of generation %s still cannot be recorded: %s", generation_id, error.message)
        return record

    def write_with_retries(self, record: Record) -> bool:
        """Write what is already paid for: keep trying, complain aloud, and never raise."""
        for pause in (*WRITE_PAUSES, None):
            try:
                self.write(record)
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
