"""The table of decisions, cell by cell: a record, a try and the state at the service."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from helpers import NOW

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.submission import decisions
from airflow_provider_seedance.submission.decisions import Deliver, Fail, LookUp, ReadRemote, Reattach, Submit
from airflow_provider_seedance.submission.records import NO_REQUEST, Attempt, Fingerprint, Record, RecordState

ID = "cgt-2026-0001"
URL = "https://cdn.example/out.mp4"


SAME = Fingerprint(
    api="ark",
    base_url="https://ark.example/api/v3",
    media="video",
    arguments={"prompt": "p1", "duration": "d1"},
)
OTHER = replace(SAME, arguments={"prompt": "p2", "duration": "d1"})

AUTOMATIC = Attempt(fingerprint=SAME, max_tries=2, try_number=2)
CLEARED = Attempt(fingerprint=SAME, max_tries=4, try_number=2)


def record(state: RecordState, print_: Fingerprint = SAME) -> Record:
    known = state in (RecordState.SUBMITTED, RecordState.ENDED)
    return Record(
        state=state,
        fingerprint=print_,
        max_tries=2,
        try_number=1,
        generation_id=ID if known else None,
        intended_at=NOW,
    )


def remote(status: str, **known: Any) -> Generation:
    if status == "succeeded":
        known.setdefault("urls", (URL,))
    return Generation(generation_id=ID, api="ark", media="video", status=GenerationStatus(status), **known)


SUBMITTED, ENDED = record(RecordState.SUBMITTED), record(RecordState.ENDED)
INTENT, UNCERTAIN = record(RecordState.INTENT), record(RecordState.UNCERTAIN)

LAST_SECOND = remote("succeeded", expires_at=NOW + timedelta(seconds=1))
GONE_LATE = remote("succeeded", expires_at=NOW - timedelta(seconds=1))
GONE_NOW = remote("succeeded", expires_at=NOW)
GONE_EMPTY = remote("succeeded", urls=(), error_message="no output")

UNREADABLE = [
    errors.SeedanceServerError("503"),
    errors.SeedanceConnectionError("reset"),
    errors.SeedanceAuthenticationError("401"),
    errors.SeedanceRateLimitError("429", retry_after=1800),
    errors.SeedanceForbiddenError("403"),
    errors.SeedanceRequestError("400"),
]

NOT_FOUND = errors.SeedanceNotFoundError("404")

#: Outcomes by (cleared, on_clear, on_uncertain); a missing part stands for any value.
Cells = dict[tuple[Any, ...], Any]
ANY: tuple[Any, ...] = (None, None, None)
RETRY, CLEAR = (False, None, None), (True, None, None)
CLEAR_REUSE, CLEAR_NEW = (True, "reuse", None), (True, "new", None)
RETRY_FAIL, RETRY_RESUBMIT = (False, None, "fail"), (False, None, "resubmit")
FAIL, RESUBMIT = (None, None, "fail"), (None, None, "resubmit")
UNKNOWN = errors.SeedanceUncertainSubmitError

#: A generation with a known id: its state at the service, and the outcomes.
KNOWN: list[tuple[Any, Cells]] = [
    *((remote(status), {ANY: Reattach}) for status in ("queued", "running")),
    *((error, {ANY: Reattach}) for error in UNREADABLE),
    *(
        (there, {RETRY: Deliver, CLEAR_REUSE: Deliver, CLEAR_NEW: Submit})
        for there in (remote("succeeded"), LAST_SECOND)
    ),
    *(
        (gone, {RETRY: errors.SeedanceOutputGoneError, CLEAR: Submit})
        for gone in (GONE_LATE, GONE_NOW, GONE_EMPTY)
    ),
    *((remote(status), {ANY: Submit}) for status in ("failed", "expired")),
    (remote("cancelled"), {RETRY: errors.SeedanceGenerationCancelledError, CLEAR: Submit}),
    (NOT_FOUND, {RETRY: errors.SeedanceNotFoundError, CLEAR: Submit}),
]

#: The same for a request that has changed since, in every state.
CHANGED: Cells = {RETRY_FAIL: errors.SeedanceRequestChangedError, RETRY_RESUBMIT: Submit, CLEAR: Submit}

#: Outcomes of a record without an id. A clear before the report is not a decision about it.
UNSEEN: dict[RecordState, Cells] = {
    RecordState.NOT_SUBMITTED: {ANY: Submit},
    RecordState.INTENT: {FAIL: UNKNOWN, RESUBMIT: Submit},
    RecordState.UNCERTAIN: {RETRY_FAIL: UNKNOWN, RETRY_RESUBMIT: Submit, CLEAR: Submit},
}

#: A record, the state at the service, and the outcomes.
TABLE: list[tuple[Record | None, Any, Cells]] = [
    (None, None, {ANY: Submit}),
    *((record(state, print_), None, cells) for print_ in (SAME, OTHER) for state, cells in UNSEEN.items()),
    *((known, there, cells) for known in (SUBMITTED, ENDED) for there, cells in KNOWN),
    *(
        (replace(known, fingerprint=OTHER), there, CHANGED)
        for known in (SUBMITTED, ENDED)
        for there in (remote("succeeded"), remote("failed"), NOT_FOUND)
    ),
]


def expected(cells: Cells, cell: tuple[Any, ...]) -> Any:
    found = [
        outcome
        for pattern, outcome in cells.items()
        if all(want is None or want == have for want, have in zip(pattern, cell, strict=True))
    ]
    assert len(found) == 1, f"the table has {len(found)} answers for {cell}"
    return found[0]


def judge(
    found: Record | None,
    at_service: Any = None,
    *,
    cleared: bool = False,
    on_clear: Any = "reuse",
    on_uncertain: Any = "fail",
) -> Any:
    """Decide in the order in which an entry decides; a look-up finds nothing."""
    attempt = CLEARED if cleared else AUTOMATIC
    verdict: Any = decisions.decide(found, attempt, on_uncertain)
    if isinstance(verdict, LookUp):
        verdict = decisions.decide_uncertain(found, attempt, on_uncertain)
    if isinstance(verdict, ReadRemote):
        verdict = decisions.decide_remote(found, attempt, on_clear, at_service, NOW)
    return verdict


CELLS = tuple(itertools.product((False, True), ("reuse", "new"), ("fail", "resubmit")))


def name_of_row(value: Any) -> str | None:
    """Return the name of a record or of what the service knows."""
    if isinstance(value, Record):
        return f"{value.state.value}{'' if value.fingerprint == SAME else '(other)'}"
    if isinstance(value, dict):
        return ""
    return value.status.value if isinstance(value, Generation) else type(value).__name__


@pytest.mark.parametrize(("found", "at_service", "cells"), TABLE, ids=name_of_row)
def test_the_table(found: Record | None, at_service: Any, cells: Cells) -> None:
    for cell in CELLS:
        cleared, on_clear, on_uncertain = cell
        verdict = judge(found, at_service, cleared=cleared, on_clear=on_clear, on_uncertain=on_uncertain)
        outcome = expected(cells, cell)
        if issubclass(outcome, errors.SeedanceError):
            assert isinstance(verdict, Fail), cell
            assert type(verdict.error) is outcome, cell
            assert not verdict.error.retry_helps, cell
        else:
            assert type(verdict) is outcome, cell
        if isinstance(verdict, Deliver):
            assert verdict.generation is at_service


def test_looking_comes_before_deciding() -> None:
    """An intent is looked up even where the Dag author allows to submit again."""
    for found, attempt in itertools.product((INTENT, UNCERTAIN), (AUTOMATIC, CLEARED)):
        assert isinstance(decisions.decide(found, attempt, "fail"), LookUp)
        assert isinstance(decisions.decide(found, attempt, "resubmit"), LookUp)


# ---------------------------------------------------------------------- messages


def failure(found: Record, at_service: Any = None) -> errors.SeedanceError:
    verdict = judge(found, at_service)
    assert isinstance(verdict, Fail)
    return verdict.error


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"arguments": {"prompt": "p1", "duration": "d1", "seed": "s"}}, "seed"),
        ({"arguments": {"prompt": "p1"}}, "duration"),
        ({"arguments": {"prompt": "p2", "duration": "d2"}}, "duration, prompt"),
        ({"base_url": "https://other.example"}, "base_url"),
        ({"api": "runbase", "media": "image"}, "api, media"),
    ],
)
def test_every_argument_that_changed_is_named(changed: dict[str, Any], named: str) -> None:
    found = record(RecordState.SUBMITTED, replace(SAME, **changed))
    assert f"the request changed ({named}) since" in failure(found).message


def test_a_clear_is_recognized_by_max_tries_alone() -> None:
    assert not decisions.is_cleared(SUBMITTED, replace(AUTOMATIC, try_number=99))
    assert decisions.is_cleared(SUBMITTED, replace(AUTOMATIC, max_tries=3))
    assert decisions.is_cleared(SUBMITTED, replace(AUTOMATIC, max_tries=1))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, (0, 0, None)),
        ({"max_tries": None, "try_number": None, "id": None}, (0, 0, None)),
        ({"max_tries": 3, "try_number": 2, "id": UUID(int=5)}, (3, 2, str(UUID(int=5)))),
    ],
)
def test_the_attempt_of_a_task_instance(fields: dict[str, Any], found: tuple[Any, ...]) -> None:
    attempt = Attempt.of(SimpleNamespace(**fields))
    assert (attempt.max_tries, attempt.try_number, attempt.ti_id) == found
    assert attempt.fingerprint == NO_REQUEST


def uncertain(
    cause: errors.SeedanceError | None = None, **policy: Any
) -> errors.SeedanceUncertainSubmitError:
    return decisions.uncertain_error("The answer was lost", "runbase", cause, **policy)


def test_an_uncertain_submission_says_what_may_be_billed_and_what_to_do() -> None:
    assert uncertain().message == (
        "The answer was lost. One generation may have been billed at runbase without its id being known here; it "
        "is not submitted again. Check the console of the service for it. Then clear this task: that submits anew. "
        "(on_uncertain_submit='resubmit' would submit again without asking.)"
    )
    assert uncertain(on_uncertain="resubmit").message.endswith(
        "that submits anew. It was submitted again once, as on_uncertain_submit='resubmit' says; both may be billed."
    )


def test_an_uncertain_submission_keeps_the_facts_of_its_cause() -> None:
    cause = errors.SeedanceServerError("bad", http_status=502, vendor_code="E1", method="POST", path="/x")
    error = uncertain(cause)
    assert error.__cause__ is cause
    assert error.details() == cause.details()
    assert uncertain().__cause__ is None
    assert uncertain().details() == errors.SeedanceError("").details()


def test_a_limit_that_rules_out_to_repeat_a_submission_is_the_cause() -> None:
    limit = errors.SeedanceMaxCreditsError("The request costs too much. Nothing was sent for it.")
    error = decisions.uncertain_over_limit("runbase", limit)
    assert error.message.startswith(
        "The outcome of a submission is unknown. The request costs too much. It was not repeated. One generation may"
    )
    assert error.message.endswith("To submit anew, raise the limit and clear it.")
    assert error.__cause__ is limit


def test_without_a_store_a_failure_names_the_generation_and_is_final() -> None:
    cause = errors.SeedanceServerError("The service failed.", http_status=500, generation_id="another")
    error = decisions.unrecorded_error(cause, [ID])
    assert error.message == (
        f"The service failed. The task had submitted generation {ID}, which is or may be billed. This Airflow has no "
        "task state store (it came with 3.3), so a retry would submit and pay again; it is not retried. "
        "SeedanceGenerationSensor can fetch a generation by its id."
    )
    assert error.details() == {**cause.details(), "generation_id": ID}
    assert not error.retry_helps


def test_without_a_store_any_failure_names_some_of_many_generations() -> None:
    error = decisions.unrecorded_error(ValueError("odd"), [])
    assert error.message.startswith(
        "ValueError: odd The task had submitted generations of unknown id, which are"
    )
    assert (error.generation_id, error.http_status) == (None, None)
    error = decisions.unrecorded_error(ValueError("odd"), [f"g{number}" for number in range(12)])
    assert "had submitted 12 generations (g0, g1, " in error.message
    assert "g9, and 2 more), which are or may be billed" in error.message
    assert error.generation_id is None


#: Case -> record, state at the service, options of the decision, and the note in the log.
NOTES: dict[str, tuple[Record, Any, dict[str, Any], str]] = {
    "reattach": (
        *(SUBMITTED, remote("running"), {}),
        f"Generation {ID} was submitted before and is running: waiting for it, not submitting again.",
    ),
    "unreadable": (
        *(SUBMITTED, errors.SeedanceServerError("sorry"), {}),
        f"Generation {ID} was submitted before; its state cannot be read now (sorry); waiting for it.",
    ),
    "deliver": (
        *(ENDED, remote("succeeded"), {}),
        f"Generation {ID} succeeded before: delivering it, nothing is paid.",
    ),
    "deliver after a clear": (
        *(ENDED, remote("succeeded"), {"cleared": True}),
        f"Generation {ID} succeeded before: delivering it, nothing is paid. on_clear='new' or a changed request would "
        "make another take.",
    ),
    "another take": (
        *(ENDED, remote("succeeded"), {"cleared": True, "on_clear": "new"}),
        f"Generation {ID} succeeded before; the task was cleared and on_clear='new': submitting another take. "
        "on_clear='reuse' would deliver the old one.",
    ),
    "another take by decision": (
        *(replace(ENDED, render_again_until=NOW + timedelta(1)), remote("succeeded"), {"cleared": True}),
        f"Generation {ID} succeeded before; the task was cleared and a person has decided to render again: submitting "
        "another take.",
    ),
    "gone after a clear": (
        *(ENDED, GONE_NOW, {"cleared": True}),
        f"Generation {ID} succeeded, but its output is gone; the task was cleared: submitting anew.",
    ),
    "unknown after a clear": (
        *(SUBMITTED, NOT_FOUND, {"cleared": True}),
        f"The service does not know generation {ID} (any more); the task was cleared: submitting anew.",
    ),
    "failed": (*(ENDED, remote("failed"), {}), f"Generation {ID} ended as failed: submitting anew."),
    "changed, cleared": (
        *(record(RecordState.ENDED, OTHER), None, {"cleared": True}),
        f"The task was cleared and the request changed (prompt) since generation {ID} was submitted: submitting anew. "
        f"{ID} was paid for and is left behind.",
    ),
    "changed, resubmit": (
        *(record(RecordState.ENDED, OTHER), None, {"on_uncertain": "resubmit"}),
        f"In a retry the request changed (prompt) since generation {ID} was submitted; on_uncertain_submit='resubmit': "
        "submitting anew, which pays again.",
    ),
    "reported, cleared": (
        *(UNCERTAIN, None, {"cleared": True}),
        "An earlier try was about to submit at 2026-02-07T10:40:00+00:00 and left no id; that was reported, and the task "
        "was cleared since: submitting anew. If the earlier submission was taken, it is billed too.",
    ),
    "uncertain, resubmit": (
        *(INTENT, None, {"on_uncertain": "resubmit"}),
        "An earlier try was about to submit at 2026-02-07T10:40:00+00:00 and left no id; on_uncertain_submit='resubmit': "
        "submitting again, which may pay twice.",
    ),
}


@pytest.mark.parametrize(("found", "at_service", "options", "note"), NOTES.values(), ids=NOTES)
def test_the_log_says_what_it_costs(
    found: Record, at_service: Any, options: dict[str, Any], note: str
) -> None:
    assert judge(found, at_service, **options).note == note


FAILURES: dict[str, tuple[Record, Any, type[errors.SeedanceError], str]] = {
    "changed": (
        *(record(RecordState.ENDED, OTHER), None, errors.SeedanceRequestChangedError),
        f"In a retry the request changed (prompt) since generation {ID} was submitted, which was paid for and is not this "
        "request's. Nothing was submitted. Clear the task to submit the new request (and pay for it), or set "
        "on_uncertain_submit='resubmit'. With mapped tasks: did the order of the items change?",
    ),
    "unknown": (
        *(SUBMITTED, NOT_FOUND, errors.SeedanceNotFoundError),
        f"Generation {ID} was submitted by this task, but the service does not know it: its record may have aged out, or "
        "the connection's key changed. Nothing was submitted. Clear the task to submit anew.",
    ),
    "cancelled": (
        *(ENDED, remote("cancelled"), errors.SeedanceGenerationCancelledError),
        f"Generation {ID} was cancelled at the service by a person, so a retry does not submit it again. Clear the task "
        "to submit anew.",
    ),
    "gone": (
        *(ENDED, GONE_NOW, errors.SeedanceOutputGoneError),
        f"Generation {ID} succeeded and was billed, but its output is gone since 2026-02-07T10:40:00+00:00. Nothing was "
        "submitted. Clear the task to submit (and pay for) a new one.",
    ),
    "gone, and why": (
        *(ENDED, GONE_EMPTY, errors.SeedanceOutputGoneError),
        f"Generation {ID} succeeded and was billed, but its output is gone (no output). Nothing was submitted. Clear the "
        "task to submit (and pay for) a new one.",
    ),
}


@pytest.mark.parametrize(("found", "at_service", "kind", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failure_says_which_generation_what_was_paid_and_what_to_do(
    found: Record, at_service: Any, kind: type[errors.SeedanceError], message: str
) -> None:
    error = failure(found, at_service)
    assert type(error) is kind
    assert error.message == message
    assert error.generation_id == ID


def test_an_unknown_generation_keeps_the_details_of_the_reply() -> None:
    reply = errors.SeedanceNotFoundError("404", http_status=404, vendor_code="NF", method="GET", path="/x")
    assert failure(SUBMITTED, reply).details() == {**reply.details(), "generation_id": ID}


@pytest.mark.parametrize(("moment", "time"), [(NOW, " at 2026-02-07T10:40:00+00:00"), (None, "")])
def test_an_intent_is_reported_with_its_time_if_that_is_known(moment: datetime | None, time: str) -> None:
    message = failure(replace(INTENT, intended_at=moment)).message
    assert message.startswith(f"An earlier try was about to submit{time} and left no id. One generation may")
    assert "billed at ark without" in message
    again = replace(INTENT, try_number=AUTOMATIC.try_number, intended_at=moment, resubmitted=True)
    twice = judge(again, on_uncertain="resubmit")
    assert isinstance(twice, Fail)
    assert twice.error.message.endswith("as on_uncertain_submit='resubmit' says; both may be billed.")
