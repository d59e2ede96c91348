"""
Records of submissions: the identity of a request, and the progress of its generation.

They are kept by a :class:`~airflow_provider_seedance.submission.store.RecordStore`. What follows from a record
is decided in :mod:`airflow_provider_seedance.submission.decisions`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache, cached_property
from itertools import zip_longest
from typing import Any

from pydantic import FiniteFloat, TypeAdapter

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import (
    Generation,
    GenerationRequest,
    GenerationStatus,
    Unit,
    read_number,
)
from airflow_provider_seedance.urls import MediaInput, split_signature

#: Version of the serialized record. A record of another version is not understood, and never overwritten.
VERSION = 1

#: Placeholder for an unknown id.
UNKNOWN_ID = "an unknown id"

#: Limit of the ids of replaced submissions in a record: with its own, as many as a message lists.
_MAX_EARLIER_IDS = 9

#: Limit of the message of a failure in a stored record, because a store keeps a hundred of them in one value.
MAX_FAILURE_CHARS = 480


# ---------------------------------------------------------------------- fingerprint


#: The callback address of a request does not change its result.
_CALLBACK_FIELDS = ("callback_url", "webhook_url")


def _plain(value: Any, signatures: list[str]) -> Any:
    """Return a value whose JSON is stable; the signatures of its links are moved to the list."""
    if isinstance(value, MediaInput):
        return {"url": _plain(value.url, signatures), "role": value.role}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, signatures) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, signatures) for item in value]
    if isinstance(value, str):
        identity, signature = split_signature(value)
        if signature:
            signatures.append(signature)
        return identity
    return value


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """
    Identity of a request: service, base URL, and a digest per argument.

    Signatures of media URLs do not count: presigned links change on every try. Arguments the user left out do
    not count either, so that a default may change under a generation in flight.

    :param signatures: Digest of the signatures that do not count; empty where there are none.
    """

    api: str
    base_url: str
    media: str
    arguments: Mapping[str, str]
    signatures: str = field(default="", compare=False)

    @classmethod
    def of(cls, request: GenerationRequest, *, api: str, base_url: str) -> Fingerprint:
        """Return the fingerprint of a request as the user (and the connection) gave it."""
        arguments, signatures = request.arguments(), list[str]()
        extra = request.extra_params
        if isinstance(extra, Mapping) and not extra.keys().isdisjoint(_CALLBACK_FIELDS):
            kept = {name: value for name, value in extra.items() if name not in _CALLBACK_FIELDS}
            arguments = {**arguments, "extra_params": kept}
        digests = {
            name: _digest(value if name == "prompt" else _plain(value, signatures))
            for name, value in arguments.items()
        }
        return cls(
            api=api,
            base_url=base_url,
            media=request.media,
            arguments=digests,
            signatures=_digest(signatures) if signatures else "",
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """Return the names of the arguments that differ."""
        found = [name for name in ("api", "base_url", "media") if getattr(self, name) != getattr(other, name)]
        names = sorted(set(self.arguments) | set(other.arguments))
        return found + [name for name in names if self.arguments.get(name) != other.arguments.get(name)]

    def has_service_of(self, other: Fingerprint) -> bool:
        """Return whether both requests are for one service."""
        return (self.api, self.base_url) == (other.api, other.base_url)

    def digest(self) -> str:
        """Return one digest of the whole request."""
        parts = [self.api, self.base_url, self.media]
        parts += [f"{name}={digest}" for name, digest in sorted(self.arguments.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


#: Fingerprint of no request in particular.
NO_REQUEST = Fingerprint(api="", base_url="", media="video", arguments={})


def record_keys(fingerprints: Iterable[Fingerprint], takes: Iterable[int | None] = ()) -> list[str]:
    """
    Return the record keys of a batch's requests: a digest, and a number for each identical request.

    :param takes: Numbers from 1 that users gave to their requests; the others get the lowest that are left.
    """
    numbered = list(zip_longest((fingerprint.digest() for fingerprint in fingerprints), takes))
    given, seen, keys = set(numbered), Counter[str](), []
    for digest, take in numbered:
        while take is None:
            seen[digest] += 1
            take = seen[digest] if (digest, seen[digest]) not in given else None
        keys.append(f"{digest}.{take - 1}")
    return keys


def count_signed_twins(fingerprints: Iterable[Fingerprint]) -> int:
    """Return how many requests differ from an earlier one in the signatures of their links only."""
    first: dict[str, str] = {}
    return sum(
        first.setdefault(found.digest(), found.signatures) != found.signatures for found in fingerprints
    )


# ---------------------------------------------------------------------- record


class RecordState(StrEnum):
    """Progress of a submission."""

    #: About to be sent, or sent; the id is not known.
    INTENT = "intent"
    #: As INTENT, and a task has failed because of it, so that clearing that task is a person's decision.
    UNCERTAIN = "uncertain"
    #: Provably nothing was billed; the same as no record.
    NOT_SUBMITTED = "not_submitted"
    #: The id is known.
    SUBMITTED = "submitted"
    #: The id and the terminal status are known.
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """
    The try of the task instance that is running.

    :param fingerprint: Of the request as it renders now.
    :param max_tries: Of the task instance. A clear raises it, an automatic retry does not, which tells the two apart.
    :param try_number: Of the task instance.
    :param ti_id: Id of the task instance, which each try has of its own.
    """

    fingerprint: Fingerprint
    max_tries: int
    try_number: int
    ti_id: str | None = None

    @classmethod
    def of(cls, ti: Any) -> Attempt:
        """Return the attempt of a running task instance, which a submission completes with the request."""
        return cls(
            fingerprint=NO_REQUEST,
            max_tries=int(getattr(ti, "max_tries", 0) or 0),
            try_number=int(getattr(ti, "try_number", 0) or 0),
            ti_id=str(ti_id) if (ti_id := getattr(ti, "id", None)) else None,
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """
    Recorded failure of an item of a batch.

    :param kind: One word for the class of error.
    :param error: Message of the error.
    :param final: Whether an automatic retry does not repeat the item.
    """

    kind: str
    error: str
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """
    The latest submission of a task instance, or of an item of a batch.

    :param ti_id: Id of the task instance that wrote it, or took it over.
    :param conn_id: Connection that it is billed to.
    :param passed_over: Connections before it that certainly took nothing, and the class of their error.
    :param correlation: Value sent along by which the service can find the generation again.
    :param resubmitted: Whether it repeats an uncertain submission of the same try.
    :param callback_nonce: Nonce in the callback URL of this submission; ``None`` where it has none.
    :param result_defaults: Fields of the result that follow from the request.
    :param result: The complete result, where only the record has it, or reading it again would cost a request.
    :param status: The terminal status.
    :param failure: Failure of an item of a batch.
    :param reported_credits: Credits as the service reported them; kept where ``result`` is left out.
    :param reported_cost_usd: Cost likewise.
    :param earlier_credits: Credits of the submissions that this one has replaced.
    :param earlier_cost_usd: Cost likewise.
    :param earlier_ids: Ids of the latest of them.
    :param render_again_until: Time until which a clear of the task pays for another generation, by decision of a person.
    """

    state: RecordState
    fingerprint: Fingerprint
    max_tries: int
    try_number: int
    ti_id: str | None = None
    conn_id: str | None = None
    passed_over: Mapping[str, str] = field(default_factory=dict)
    end_from_trigger: bool = False
    generation_id: str | None = None
    correlation: str | None = None
    resubmitted: bool = False
    callback_nonce: str | None = None
    result_defaults: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    status: GenerationStatus | None = None
    failure: Failure | None = None
    reported_credits: FiniteFloat | None = None
    reported_cost_usd: FiniteFloat | None = None
    earlier_credits: FiniteFloat = 0.0
    earlier_cost_usd: FiniteFloat = 0.0
    earlier_ids: tuple[str, ...] = ()
    intended_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    render_again_until: datetime | None = None

    @property
    def reused_from(self) -> Any:
        """Return the task instance that had paid for the generation, if another one did."""
        return self.result_defaults.get("reused_from")

    @property
    def has_unknown_outcome(self) -> bool:
        """Return whether it may have been submitted, while its id is not known."""
        return self.state in (RecordState.INTENT, RecordState.UNCERTAIN)

    def committed(self, unit: Unit) -> float:
        """Return the cost of this submission and those before it: as reported, else by the price list, else 0."""
        reported = getattr(self, f"reported_{unit}")
        listed = self.result_defaults.get(unit) if reported is None else reported
        billed = self.state is not RecordState.NOT_SUBMITTED
        earlier = self.earlier_credits if unit == "credits" else self.earlier_cost_usd
        return earlier + float((billed and read_number(listed)) or 0.0)

    @property
    def submitted_ids(self) -> tuple[str, ...]:
        """Return the ids of the submissions before this one, and its own, unless another task has submitted that."""
        foreign = self.state is RecordState.NOT_SUBMITTED or self.reused_from
        return self.earlier_ids if foreign else (*self.earlier_ids, self.generation_id or UNKNOWN_ID)

    def placeholder_generation(self) -> Generation:
        """Return the generation without its output; one that succeeded is queued, because that has to be read."""
        ended = None if self.status is GenerationStatus.SUCCEEDED else self.status
        generation = Generation(
            generation_id=str(self.generation_id),
            api=self.fingerprint.api,
            media="image" if self.fingerprint.media == "image" else "video",
            status=ended or GenerationStatus.QUEUED,
        )
        if ended:
            return replace(generation, credits=self.reported_credits, cost_usd=self.reported_cost_usd)
        return generation.with_defaults(self.result_defaults)

    def known_end(self) -> Generation | None:
        """
        Return the terminal generation where it need not be read from the service.

        :raises SeedanceRecordError: the recorded result is damaged.
        """
        if self.result is not None:
            try:
                return Generation.from_result(self.result).with_defaults(self.result_defaults)
            except ValueError as error:
                raise errors.SeedanceRecordError(
                    f"The recorded result cannot be read: {error}", generation_id=self.generation_id
                ) from error
        if self.status in (GenerationStatus.FAILED, GenerationStatus.EXPIRED, GenerationStatus.CANCELLED):
            return self.placeholder_generation()
        return None

    @cached_property
    def json_text(self) -> str:
        """The record as compact JSON; cached, because each write of a batch contains the records of a group."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    @cached_property
    def without_result(self) -> Record:
        """The record without the result, for a store that has no room for it."""
        return replace(self, result=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a JSON value."""
        failure = self.failure
        if failure and len(failure.error) > MAX_FAILURE_CHARS:
            failure = replace(failure, error=f"{failure.error[: MAX_FAILURE_CHARS - 2]} …")
        return {"version": VERSION, **_adapter().dump_python(replace(self, failure=failure), mode="json")}

    @classmethod
    def from_value(cls, value: Any) -> Record:
        """
        Read the value of :meth:`as_dict`.

        :raises SeedanceRecordError: it is damaged, or of another version.
        """
        try:
            if (version := value["version"]) != VERSION:
                raise errors.SeedanceRecordError(
                    f"A record of a submission has version {version!r}, this release reads version {VERSION}. "
                    "Nothing was submitted. Run the task with the release that wrote it."
                )
            record = _adapter().validate_python(value)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise errors.SeedanceRecordError(
                "A record of a submission was damaged, or written by something else. Nothing was submitted."
            ) from error
        if record.state in (RecordState.SUBMITTED, RecordState.ENDED) and not record.generation_id:
            raise errors.SeedanceRecordError(
                "A record says submitted but names no generation. Nothing was submitted."
            )
        return record


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)  # not at import, which a Dag file pays for


def paid_ids(records: Iterable[Record | None]) -> list[str]:
    """Return the ids of the submissions of records."""
    return [generation_id for record in records if record for generation_id in record.submitted_ids]


def intent_record(
    attempt: Attempt,
    now: datetime,
    *,
    conn_id: str,
    passed_over: Mapping[str, str],
    correlates: bool,
    result_defaults: Mapping[str, Any],
    end_from_trigger: bool,
    calls_back: bool = False,
    resubmitted: bool = False,
    previous: Record | None = None,
) -> Record:
    """Return the record to write before a submission, in place of the previous one."""
    return Record(
        state=RecordState.INTENT,
        fingerprint=attempt.fingerprint,
        max_tries=attempt.max_tries,
        try_number=attempt.try_number,
        ti_id=attempt.ti_id,
        conn_id=conn_id,
        passed_over=passed_over,
        end_from_trigger=end_from_trigger,
        correlation=f"airflow-{secrets.token_hex(16)}" if correlates else None,
        resubmitted=resubmitted,
        callback_nonce=secrets.token_urlsafe(12) if calls_back else None,
        result_defaults=result_defaults,
        earlier_credits=previous.committed("credits") if previous else 0.0,
        earlier_cost_usd=previous.committed("cost_usd") if previous else 0.0,
        earlier_ids=previous.submitted_ids[-_MAX_EARLIER_IDS:] if previous else (),
        intended_at=now,
    )


def as_submitted(record: Record, generation: Generation, now: datetime, *, synchronous: bool) -> Record:
    """
    Return the record to write after a submission was accepted.

    :param synchronous: Whether the answer is the complete result, which the service does not store.
    """
    record = replace(record, generation_id=generation.generation_id, submitted_at=now)
    if not generation.status.terminal:
        return replace(record, state=RecordState.SUBMITTED)
    return replace(as_ended(record, generation, now), result=generation.result() if synchronous else None)


def as_ended(record: Record, generation: Generation, now: datetime) -> Record:
    """Return the record to write when the generation has ended."""
    paid = not record.reused_from  # else its cost is in the record of another task
    credits, cost_usd = (generation.credits, generation.cost_usd) if paid else (0.0, 0.0)
    return replace(
        record,
        state=RecordState.ENDED,
        status=generation.status,
        failure=None,
        reported_credits=record.reported_credits if credits is None else credits,
        reported_cost_usd=record.reported_cost_usd if cost_usd is None else cost_usd,
        # The worker that delivers it may come later than the reading.
        ended_at=record.ended_at or generation.read_at or now,
    )


def with_id(record: Record, generation_id: str) -> Record:
    """Return the record of an uncertain submission whose id was found."""
    return replace(record, state=RecordState.SUBMITTED, generation_id=generation_id, failure=None)


def taken_over(record: Record, attempt: Attempt) -> Record:
    """Return the record as the present attempt takes it over, without the failure of an earlier one."""
    return replace(
        record, max_tries=attempt.max_tries, try_number=attempt.try_number, ti_id=attempt.ti_id, failure=None
    )
