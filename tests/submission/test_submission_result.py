"""The order of several connections, and what is raised or waited for if none takes a request."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import NOW

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.submission import submission_result as module
from airflow_provider_seedance.submission.decisions import unfit_owner
from airflow_provider_seedance.submission.records import Attempt, Fingerprint, Record, RecordState
from airflow_provider_seedance.submission.submission_result import NotTaken, RetryLater
from airflow_provider_seedance.submission.submitter import FallbackSubmission

A = Fingerprint(api="ark", base_url="https://a", media="video", arguments={})
PRINTS = {name: replace(A, base_url=f"https://{name}") for name in "abc"}
ATTEMPT = Attempt(fingerprint=A, max_tries=2, try_number=2)
CLEARED = replace(ATTEMPT, max_tries=5)

LIMITED = errors.SeedanceRateLimitError
NO_CREDITS = errors.SeedanceInsufficientCreditsError


def record(state: str = "submitted", conn_id: str = "b", print_: str = "b") -> Record:
    return Record(
        state=RecordState(state),
        fingerprint=PRINTS[print_],
        max_tries=2,
        try_number=1,
        conn_id=conn_id,
        generation_id="g",
        intended_at=NOW,
    )


def submissions(attempt: Attempt = ATTEMPT) -> FallbackSubmission:
    each: list[Any] = [
        SimpleNamespace(conn_id=name, attempt=replace(attempt, fingerprint=print_))
        for name, print_ in PRINTS.items()
    ]
    return FallbackSubmission(submissions=each)


@pytest.mark.parametrize(
    ("found", "owner"),
    [
        (None, "a"),
        (record(), "b"),
        (record(conn_id="b", print_="c"), "b"),
        (record(conn_id="renamed", print_="c"), "c"),
        (replace(record(), conn_id="gone", fingerprint=replace(PRINTS["c"], api="fal")), "a"),
    ],
)
def test_the_connection_that_a_record_is_about(found: Record | None, owner: str) -> None:
    assert submissions().owner_of(found).conn_id == owner


@pytest.mark.parametrize(
    ("found", "attempt", "order", "needs_its_owner"),
    [
        (None, ATTEMPT, "abc", False),
        (record("not_submitted"), ATTEMPT, "abc", False),
        (record("submitted"), ATTEMPT, "bac", True),
        (record("submitted"), CLEARED, "abc", False),
        (record("intent"), ATTEMPT, "b", True),
        (record("uncertain"), CLEARED, "b", True),
    ],
)
def test_the_connections_that_may_be_tried(
    found: Record | None, attempt: Attempt, order: str, needs_its_owner: bool
) -> None:
    tried = submissions(attempt)
    assert "".join(each.conn_id for each in tried._in_order(tried.owner_of(found), found)) == order
    error = errors.SeedanceRequestError("no images")
    assert unfit_owner({"b": error}, found, attempt) == (error if needs_its_owner else None)
    assert unfit_owner({"c": error}, found, attempt) is None


def refusal(
    name: str, error: errors.SeedanceError, *, waits: bool = False, gives_way: bool = True
) -> NotTaken:
    return NotTaken(name, error, record(conn_id=name), waits, gives_way)


def wait_or_raise(*refusals: NotTaken) -> RetryLater:
    return module.wait_or_raise(refusals, {found.conn_id: found.error for found in refusals})


def test_the_shortest_wait_is_waited_for() -> None:
    first = refusal("a", LIMITED("slow", retry_after=900), waits=True)
    second = refusal("b", LIMITED("soon", retry_after=90, http_status=429), waits=True)
    unnamed = refusal("c", LIMITED("later"), waits=True)
    for order in ((first, second), (second, first)):
        later = wait_or_raise(*order, refusal("d", NO_CREDITS("poor")))
        assert (later.record, later.conn_id) == (second.record, "b")
        assert type(later.error) is LIMITED
        assert (later.error.retry_after, later.error.http_status) == (90, 429)
        parts = " ".join(f"Connection {found.conn_id!r}: {found.error.message}" for found in order)
        assert later.error.message == f"No connection took the render. {parts} Connection 'd': poor"
    assert wait_or_raise(second, unnamed).conn_id == "c"  # in a minute


def test_the_wait_of_the_only_connection_is_its_own() -> None:
    only = refusal("a", LIMITED("slow"), waits=True, gives_way=False)
    assert wait_or_raise(only) == RetryLater(only.error, only.record, "a")


@pytest.mark.parametrize(
    ("refusals", "error"),
    [
        ([refusal("a", NO_CREDITS("poor"))], NO_CREDITS),
        ([refusal("a", errors.SeedanceConnectionError("x")), refusal("b", NO_CREDITS("poor"))], errors.SeedanceConnectionError),
        ([refusal("a", NO_CREDITS("poor")), refusal("b", errors.SeedanceForbiddenError("no"))], errors.SeedanceForbiddenError),
        # It may be paid at the last one.
        (
            [refusal("a", LIMITED("x"), waits=True), refusal("b", errors.SeedanceRequestError("no"), gives_way=False)],
            errors.SeedanceRequestError,
        ),
    ],
)  # fmt: skip
def test_the_error_that_a_retry_cures_is_raised(
    refusals: list[NotTaken], error: type[errors.SeedanceError]
) -> None:
    with pytest.raises(errors.SeedanceError) as caught:
        wait_or_raise(*refusals)
    assert type(caught.value) is error
