"""
Submitting at most once: what to do when a task finds (or does not find) a record of a submission.

The invariants:

* No intent written, no POST. The record says *intent* before the first byte of a submission leaves.
* A record that cannot be read is not an empty one.
* An intent without an id is never repeated without a person's or the Dag author's decision, and not with it
  while the service, which may know the id, cannot be asked.
* A record belongs to a request: an id is only used for the request it was paid for.

The decisions are pure functions of the record, the present attempt and (where the table of the design
asks for it) what the service says about the generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, iso
from airflow_provider_seedance.submission.records import Attempt, Record, RecordState

OnUncertain = Literal["fail", "resubmit"]
OnClear = Literal["reuse", "new"]


@dataclass(frozen=True)
class Submit:
    """Submit; ``note`` says why that is right, for the log, where it is not the first time."""

    note: str | None = None


@dataclass(frozen=True)
class LookUp:
    """Look for a generation whose id was never learned, then ask :func:`decide_uncertain`."""


@dataclass(frozen=True)
class ReadRemote:
    """Read the state of the recorded generation, then ask :func:`decide_remote`."""


@dataclass(frozen=True)
class Reattach:
    """Wait for the recorded generation."""

    note: str


@dataclass(frozen=True)
class Deliver:
    """Return the output of the recorded generation."""

    generation: Generation
    note: str


@dataclass(frozen=True)
class Fail:
    """Raise."""

    error: errors.SeedanceError


def is_cleared(record: Record, attempt: Attempt) -> bool:
    """
    Whether a person cleared the task since the record was written (else: an automatic retry).

    Wrong only if ``retries`` was changed in the Dag to just the number that hides the clear; the task
    is then treated as retried, which never pays twice, and another clear is recognised.
    """
    return record.max_tries != attempt.max_tries


def is_of_this_try(record: Record, attempt: Attempt) -> bool:
    """Whether a record was written, or taken over, by the try that is running."""
    return (record.max_tries, record.try_number) == (attempt.max_tries, attempt.try_number)


def decide(
    record: Record | None, attempt: Attempt, on_uncertain: OnUncertain
) -> Submit | LookUp | ReadRemote | Fail:
    """Take the first decision, from the record alone."""
    if record is None or record.state is RecordState.NOT_SUBMITTED:
        return Submit()
    if record.state in (RecordState.INTENT, RecordState.UNCERTAIN):
        return LookUp()
    changed = record.fingerprint.differences(attempt.fingerprint)
    if not changed:
        return ReadRemote()
    old = record.generation_id
    what = f"the request changed ({', '.join(changed)}) since generation {old} was submitted"
    if is_cleared(record, attempt):
        return Submit(
            f"The task was cleared and {what}: submitting anew. {old} was paid for and is left behind."
        )
    if on_uncertain == "resubmit":
        return Submit(
            f"In a retry {what}; on_uncertain_submit='resubmit': submitting anew, which pays again."
        )
    return Fail(
        errors.SeedanceRequestChangedError(
            f"In a retry {what}, which was paid for and is not this request's. Nothing was submitted. "
            "Clear the task to submit the new request (and pay for it), or set on_uncertain_submit='resubmit'. "
            "With mapped tasks: did the order of the items change?",
            generation_id=old,
        )
    )


def decide_uncertain(
    record: Record, attempt: Attempt, on_uncertain: OnUncertain, *, found: str | None, repeated: bool = False
) -> ReadRemote | Submit | Fail:
    """
    Decide on an intent without an id, after looking for it.

    :param found: The id, if there was one.
    :param repeated: Whether this try has submitted a second time already.
    """
    if found:
        return ReadRemote()
    what = left_no_id(record)
    if is_cleared(record, attempt) and record.state is RecordState.UNCERTAIN:
        return Submit(
            f"{what}; that was reported, and the task was cleared since: submitting anew. If the earlier "
            "submission was taken, it is billed too."
        )
    if on_uncertain == "resubmit" and not repeated:
        return Submit(f"{what}; on_uncertain_submit='resubmit': submitting again, which may pay twice.")
    return Fail(uncertain_failure(what, record.fingerprint.api, on_uncertain=on_uncertain))


def left_no_id(record: Record) -> str:
    """Return what to say of an earlier try that is over."""
    when = f" at {iso(record.intended_at)}" if record.intended_at else ""
    return f"An earlier try was about to submit{when} and left no id"


def not_looked_up(
    what: str, api: str, cause: errors.SeedanceError, told: Sequence[str] = ()
) -> errors.SeedanceError:
    """
    Return the error for a submission of unknown fate that the service cannot be asked for at the moment.

    :param told: The ids that callbacks named for it, and that could not be read.
    """
    unread = (
        f"{api} named {', '.join(told)} for it in a callback, which cannot be read now"
        if told
        else f"{api} cannot be asked for it now"
    )
    error = type(cause)(
        f"{what}. One generation may have been billed, and {unread}: {cause.message} "
        "Nothing is submitted; the next try, or one after a clear, looks for it again.",
        **cause.details(),
    )
    error.__cause__ = cause
    return error


def uncertain_failure(
    what: str,
    api: str,
    cause: errors.SeedanceError | None = None,
    *,
    on_uncertain: OnUncertain = "fail",
) -> errors.SeedanceUncertainSubmitError:
    """Return the error for a submission whose fate is unknown, saying what a person should do."""
    hint = (
        " (on_uncertain_submit='resubmit' would submit again without asking.)"
        if on_uncertain == "fail"
        else " It was submitted again once, as on_uncertain_submit='resubmit' says; both may be billed."
    )
    error = errors.SeedanceUncertainSubmitError(
        f"{what}. One generation may have been billed at {api} without its id being known here; it is not "
        f"submitted again. Check the console of the service for it, then clear this task: that submits anew.{hint}",
        **(cause.details() if cause else {}),
    )
    error.__cause__ = cause
    return error


def unrecorded(error: BaseException, generation_id: str | None) -> errors.SeedanceUnrecordedError:
    """Return the final error for a failure after which a retry would pay again (below Airflow 3.3)."""
    said = error.message if isinstance(error, errors.SeedanceError) else f"{type(error).__name__}: {error}"
    which = f"generation {generation_id}" if generation_id else "a generation of unknown id"
    details = error.details() if isinstance(error, errors.SeedanceError) else {}
    return errors.SeedanceUnrecordedError(
        f"{said} The task had submitted {which}, which is or may be billed. This Airflow has no task state "
        "store (it came with 3.3), so a retry would submit and pay again; it is not retried. "
        "SeedanceGenerationSensor can fetch a generation by its id.",
        **{**details, "generation_id": generation_id},
    )


def decide_remote(
    record: Record,
    attempt: Attempt,
    on_clear: OnClear,
    remote: Generation | errors.SeedanceError,
    now: datetime,
) -> Submit | Reattach | Deliver | Fail:
    """Decide on a recorded generation of the same request, from what the service says about it."""
    cleared = is_cleared(record, attempt)
    old = record.generation_id
    if isinstance(remote, errors.SeedanceNotFoundError):
        if cleared:
            return Submit(
                f"The service does not know generation {old} (any more); the task was cleared: submitting anew."
            )
        return Fail(
            errors.SeedanceNotFoundError(
                f"Generation {old} was submitted by this task, but the service does not know it: its record "
                "may have aged out, or the connection's key changed. Nothing was submitted. Clear the task "
                "to submit anew.",
                **{**remote.details(), "generation_id": old},
            )
        )
    if isinstance(remote, errors.SeedanceError):
        return Reattach(
            f"Generation {old} was submitted before; its state cannot be read now ({remote.message}); waiting for it."
        )
    if not remote.status.terminal:
        return Reattach(
            f"Generation {old} was submitted before and is {remote.status.value}: waiting for it, not submitting again."
        )
    if remote.status is GenerationStatus.SUCCEEDED:
        return _decide_succeeded(old, cleared, on_clear, remote, now)
    if remote.status is GenerationStatus.CANCELLED and not cleared:
        return Fail(
            errors.SeedanceGenerationCancelledError(
                f"Generation {old} was cancelled at the service by a person, so a retry does not submit it "
                "again. Clear the task to submit anew.",
                generation_id=old,
            )
        )
    return Submit(f"Generation {old} ended as {remote.status.value}: submitting anew.")


def _decide_succeeded(
    old: str | None, cleared: bool, on_clear: OnClear, remote: Generation, now: datetime
) -> Submit | Deliver | Fail:
    if remote.output_gone(now):
        if cleared:
            return Submit(
                f"Generation {old} succeeded, but its output is gone; the task was cleared: submitting anew."
            )
        return Fail(
            errors.SeedanceOutputGoneError(
                f"Generation {old} succeeded and was billed, but its output is gone"
                + (f" since {iso(remote.expires_at)}" if remote.expires_at else "")
                + (f" ({remote.error_message})" if remote.error_message else "")
                + ". Nothing was submitted. Clear the task to submit (and pay for) a new one.",
                generation_id=old,
            )
        )
    if cleared and on_clear == "new":
        return Submit(
            f"Generation {old} succeeded before; the task was cleared and on_clear='new': submitting another "
            "take. on_clear='reuse' would deliver the old one."
        )
    hint = " on_clear='new' or a changed request would make another take." if cleared else ""
    return Deliver(remote, f"Generation {old} succeeded before: delivering it, nothing is paid.{hint}")
