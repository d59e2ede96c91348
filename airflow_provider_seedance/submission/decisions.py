"""
The decision table of submitting at most once: pure functions of the record, the attempt and the service's answer.

* No intent written, no POST: the record says *intent* before the first byte of a submission leaves.
* A record that cannot be read is not an empty one.
* An intent without an id is repeated only by decision of a person or the Dag author, and never while the service,
  which may know the id, cannot be reached.
* A record belongs to a request: its id is only used for the request that was paid for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.generations import (
    MAX_ARGUMENTS,
    Generation,
    GenerationStatus,
    Unit,
    amount,
    iso,
)
from airflow_provider_seedance.submission.records import Attempt, Record, RecordState
from airflow_provider_seedance.submission.store import Reuse

#: Reason for which no record outlives a try, for messages.
NO_STORE = "This Airflow has no task state store (it came with 3.3)"

#: Limit of the ids or keys in one message.
MAX_LISTED = 10

#: In place of ``max_tries``, in a record from before a clear.
_OF_ANOTHER_RUN = -1

#: Claim of an error that is wrong after a submission.
NOTHING_SENT = re.compile(r" ?Nothing was sent(, nothing is billed)?\.")

OnUncertain = Literal["fail", "resubmit"]
OnClear = Literal["reuse", "new"]


@dataclass(frozen=True, kw_only=True)
class SubmissionPolicy:
    """
    Decisions of the Dag author.

    :param callback_url: Makes the callback URL of a submission from its nonce; ``None`` without callbacks.
    :param limits: Maximum cost of the task instance, in the units that are limited.
    """

    callback_url: Callable[[str], str] | None = None
    on_uncertain_submit: OnUncertain = "fail"
    on_clear: OnClear = "reuse"
    limits: Mapping[Unit, float] = field(default_factory=dict)
    reuse: Reuse = "task"
    on_budget: Literal["fail", "wait"] = "fail"
    end_from_trigger: bool = False

    @classmethod
    def of(cls, operator: Any, callback_url: Callable[[str], str] | None = None) -> SubmissionPolicy:
        """Return the policy in the validated arguments of an operator."""
        names = {item.name for item in fields(cls)} - {"callback_url"}
        return cls(callback_url=callback_url, **{name: getattr(operator, name) for name in names})


@dataclass(frozen=True)
class Submit:
    """Verdict to submit; ``note`` is the reason for the log, unless it is the first submission."""

    note: str | None = None


@dataclass(frozen=True)
class LookUp:
    """Verdict to look for the generation of an intent without an id; :func:`decide_uncertain` if none is found."""


@dataclass(frozen=True)
class ReadRemote:
    """Verdict to read the recorded generation from the service, and to call :func:`decide_remote` then."""


@dataclass(frozen=True)
class Reattach:
    """Verdict to wait for the recorded generation."""

    note: str


@dataclass(frozen=True)
class Deliver:
    """Verdict to return the output of the recorded generation."""

    generation: Generation
    note: str


@dataclass(frozen=True)
class Fail:
    """Verdict to fail with the error."""

    error: errors.SeedanceError


Verdict = Submit | LookUp | ReadRemote | Reattach | Deliver | Fail


def is_cleared(record: Record, attempt: Attempt) -> bool:
    """
    Return whether a person cleared the task since the record was written; otherwise it is an automatic retry.

    Wrong only if ``retries`` was changed in the Dag to just the number that hides the clear. The task is then
    treated as retried, which never pays twice, and another clear is recognized.

    A Dag run that was deleted and made again counts as cleared, too: its tries are not later than the record's.
    """
    if record.max_tries != attempt.max_tries:
        return True
    return record.try_number >= attempt.try_number and not _may_be_of_one_try(record, attempt)


def unfit_owner(
    unfit: Mapping[str, errors.SeedanceError], record: Record | None, attempt: Attempt
) -> errors.SeedanceError | None:
    """Return the error of a connection that was, or may have been, paid and cannot make the request of a retry."""
    error = unfit.get(record.conn_id or "") if record else None
    if record is None or error is None or record.state is RecordState.NOT_SUBMITTED:
        return None
    return error if record.has_unknown_outcome or not is_cleared(record, attempt) else None


def is_of_this_try(record: Record, attempt: Attempt) -> bool:
    """Return whether a record was written, or taken over, by the try that is running."""
    same_numbers = (record.max_tries, record.try_number) == (attempt.max_tries, attempt.try_number)
    return same_numbers and _may_be_of_one_try(record, attempt)


def kept_cleared(record: Record, attempt: Attempt) -> Record:
    """Return a record from before a clear as one that later tries know to be such: their numbers may hide it."""
    return replace(record, max_tries=_OF_ANOTHER_RUN) if is_cleared(record, attempt) else record


def _may_be_of_one_try(record: Record, attempt: Attempt) -> bool:
    return record.ti_id == attempt.ti_id or None in (record.ti_id, attempt.ti_id)


def was_waiting_for_quota(record: Record | None, attempt: Attempt) -> bool:
    """
    Return whether a deferral that broke was one for quota, with no submission in flight.

    A rejected submission restores the record of what was paid for before, which is then of an earlier try.
    """
    if record is None:
        return False
    if record.generation_id is None:
        return record.state is RecordState.NOT_SUBMITTED
    return not is_of_this_try(record, attempt)


def deadline_after_broken_deferral(record: Record | None, timeout: float, now: float) -> float:
    """
    Return the deadline of a wait whose deferral broke: at most now.

    It is that of the submission, so that a trigger that breaks each time does not extend the wait.
    """
    if record is None or record.submitted_at is None:
        return now
    return min(now, record.submitted_at.timestamp() + timeout)


def decide(
    record: Record | None, attempt: Attempt, on_uncertain: OnUncertain
) -> Submit | LookUp | ReadRemote | Fail:
    """Decide on the record alone."""
    if record is None or record.state is RecordState.NOT_SUBMITTED:
        return Submit()
    if record.has_unknown_outcome:
        return LookUp()
    changed = record.fingerprint.differences(attempt.fingerprint)
    if not changed:
        return ReadRemote()
    old = record.generation_id
    if record.reused_from:
        return Submit(
            f"The request changed ({', '.join(changed)}); {old}, of another task, is left to that one."
        )
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
    record: Record, attempt: Attempt, on_uncertain: OnUncertain, resolve_command: str | None = None
) -> Submit | Fail:
    """
    Decide on an intent without an id that the service does not know either.

    :param resolve_command: Command with which a person settles it.
    """
    what = left_no_id(record)
    if is_cleared(record, attempt) and record.state is RecordState.UNCERTAIN:
        return Submit(
            f"{what}; that was reported, and the task was cleared since: submitting anew. If the earlier "
            "submission was taken, it is billed too."
        )
    if on_uncertain == "resubmit" and not (record.resubmitted and is_of_this_try(record, attempt)):
        return Submit(f"{what}; on_uncertain_submit='resubmit': submitting again, which may pay twice.")
    return Fail(
        uncertain_error(
            what, record.fingerprint.api, on_uncertain=on_uncertain, resolve_command=resolve_command
        )
    )


def left_no_id(record: Record) -> str:
    """Return the description of an uncertain submission of an earlier try, for messages."""
    when = f" at {iso(record.intended_at)}" if record.intended_at else ""
    return f"An earlier try was about to submit{when} and left no id"


def lookup_failed_error(
    what: str,
    api: str,
    cause: errors.SeedanceError,
    unconfirmed_ids: Sequence[str] = (),
    resolve_command: str | None = None,
) -> errors.SeedanceError:
    """
    Return the error for an uncertain submission that cannot be looked up at the service at the moment.

    :param unconfirmed_ids: Ids that callbacks named for it, and that could not be read.
    :param resolve_command: Command with which a person settles it.
    """
    why = (
        f"{api} named {', '.join(unconfirmed_ids)} for it in a callback, which cannot be read now"
        if unconfirmed_ids
        else f"{api} cannot be queried for it now"
    )
    error = type(cause)(
        f"{what}. One generation may have been billed, and {why}: {cause.message} "
        f"Nothing is submitted; the next try, or one after a clear, looks for it again. {resolving(resolve_command)}".strip(),
        **cause.details(),
    )
    error.__cause__ = cause
    return error


def listed(words: Sequence[str], separator: str = ", ") -> str:
    """Return the first words of a list, and the number of the others."""
    more = [f"and {len(words) - MAX_LISTED} more"] if len(words) > MAX_LISTED else []
    return separator.join([*words[:MAX_LISTED], *more])


def over_limit(unit: Unit, limit: float, price: float, spent: float, ids: Sequence[str]) -> str:
    """Return the reason for which a limit of the task rules a request out after earlier submissions."""
    return (
        f"The request costs {amount(unit, price)}, more than {MAX_ARGUMENTS[unit]}={limit:g} leaves: earlier submissions of "
        f"this task instance cost, or may cost, {round(spent, 6):g} ({listed(ids) or 'none'})."
    )


def uncertain_over_limit(
    api: str, limit: errors.SeedanceError, resolve_command: str | None = None
) -> errors.SeedanceUncertainSubmitError:
    """Return the error for a submission whose fate is unknown, and that a limit or a budget rules out to repeat."""
    why = limit.message.partition(" Nothing was sent")[0]
    what = f"The outcome of a submission is unknown. {why} It was not repeated"
    advice = f"{resolving(resolve_command)} To submit anew, raise the limit and clear it.".strip()
    return flows.uncertain_error(what, api, advice, cause=limit)


def resolving(command: str | None) -> str:
    """Return the advice to settle an uncertain submission with a command, where there is one."""
    if command is None:
        return ""
    return f"Record what you find for the next try with `{command} --generation-id ID` (or `--not-billed`)."


def uncertain_error(
    what: str,
    api: str,
    cause: errors.SeedanceError | None = None,
    *,
    on_uncertain: OnUncertain = "fail",
    resolve_command: str | None = None,
) -> errors.SeedanceUncertainSubmitError:
    """Return the error of a task for a submission whose fate is unknown, with advice for a person."""
    resubmit = (
        "(on_uncertain_submit='resubmit' would submit again without asking.)"
        if on_uncertain == "fail"
        else "It was submitted again once, as on_uncertain_submit='resubmit' says; both may be billed."
    )
    way_out = (
        f"{resolving(resolve_command)} Then clear this task. Without that, clearing it submits anew."
        if resolve_command
        else "Then clear this task: that submits anew."
    )
    return flows.uncertain_error(what, api, f"{way_out} {resubmit}", cause=cause)


def unrecorded_error(error: BaseException, generation_ids: Sequence[str]) -> errors.SeedanceUnrecordedError:
    """
    Return the final error for a failure after which a retry would pay again, because no record outlives the try.

    :param generation_ids: Generations that were submitted, as far as their ids are known.
    """
    message = error.message if isinstance(error, errors.SeedanceError) else f"{type(error).__name__}: {error}"
    message = NOTHING_SENT.sub("", message)
    details = error.details() if isinstance(error, errors.SeedanceError) else {}
    count = len(generation_ids)
    if count > 1:
        which = f"{count} generations ({listed(generation_ids)}), which are"
    else:
        which = (
            f"generation {generation_ids[0]}, which is" if count else "generations of unknown id, which are"
        )
    return errors.SeedanceUnrecordedError(
        f"{message} The task had submitted {which} or may be billed. {NO_STORE}, so a retry would submit and pay "
        "again; it is not retried. SeedanceGenerationSensor can fetch a generation by its id.",
        **{**details, "generation_id": generation_ids[0] if count == 1 else None},
    )


def decide_remote(
    record: Record,
    attempt: Attempt,
    on_clear: OnClear,
    remote: Generation | errors.SeedanceError,
    now: datetime,
) -> Submit | Reattach | Deliver | Fail:
    """Decide on a recorded generation of the same request, by its state at the service."""
    cleared, old = is_cleared(record, attempt), record.generation_id
    if record.reused_from and _is_lost(remote, now):
        return Submit(f"Generation {old} of another task cannot be delivered: submitting.")
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
        return _decide_succeeded(old, cleared, wants_another(record, attempt, on_clear, now), remote, now)
    if remote.status is GenerationStatus.CANCELLED and not cleared:
        return Fail(
            errors.SeedanceGenerationCancelledError(
                f"Generation {old} was cancelled at the service by a person, so a retry does not submit it "
                "again. Clear the task to submit anew.",
                generation_id=old,
            )
        )
    return Submit(f"Generation {old} ended as {remote.status.value}: submitting anew.")


def _is_lost(remote: Generation | errors.SeedanceError, now: datetime) -> bool:
    if isinstance(remote, errors.SeedanceError):
        return isinstance(remote, errors.SeedanceNotFoundError)
    ended = remote.status.terminal and remote.status is not GenerationStatus.SUCCEEDED
    return ended or remote.output_gone(now)


def wants_another(record: Record, attempt: Attempt, on_clear: OnClear, now: datetime) -> str | None:
    """Return the reason to pay for another generation although one has succeeded, or ``None``."""
    if not is_cleared(record, attempt):
        return None
    if record.render_again_until and now < record.render_again_until:
        return "a person has decided to render again"
    return "on_clear='new'" if on_clear == "new" else None


def _decide_succeeded(
    old: str | None, cleared: bool, another: str | None, remote: Generation, now: datetime
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
    if another:
        instead = " on_clear='reuse' would deliver the old one." if another.startswith("on_clear") else ""
        return Submit(
            f"Generation {old} succeeded before; the task was cleared and {another}: submitting another take.{instead}"
        )
    advice = " on_clear='new' or a changed request would make another take." if cleared else ""
    return Deliver(remote, f"Generation {old} succeeded before: delivering it, nothing is paid.{advice}")
