"""Submissions whose outcome is unknown: reported, looked up, or submitted again once."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import ALL_APIS, video
from support import PROMPT

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.submission.submission_result import RetryLater
from submission.entry import Task

WITHOUT_LOOKUP = [api for api in ALL_APIS if api not in ("ark", "fal")]

# ---------------------------------------------------------------------- without a look-up


LOST: list[tuple[str, dict[str, Any]]] = [
    ("drop_reply", {}),
    ("cut", {}),
    ("cut_body", {}),
    ("rubbish", {}),
    ("gateway_error", {"accept": True}),
    ("gateway_error", {"status": 503}),
    ("gateway_error", {"status": 524}),
    ("redirect", {}),
]


@pytest.mark.parametrize(
    ("api", "kind", "options"),
    [
        *(("runbase", *lost) for lost in LOST),
        *((api, "drop_reply", {}) for api in WITHOUT_LOOKUP if api != "runbase"),
    ],
)
def test_an_unknown_fate(task: Task, api: str, kind: str, options: dict[str, Any]) -> None:
    task.services.fault(kind, **options)
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        task.enter()
    for words in ("may have been billed", api, "console", "clear this task"):
        assert words in caught.value.message
    assert task.store.states == ["intent", "uncertain"]
    # A retry does not repeat it; a clear, now that it was reported, does.
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.retry()
    assert task.posts == 1
    assert task.clear().generation_id == task.submitted[-1]
    assert task.posts == 2


def test_resubmitting_once_by_the_dag_authors_decision(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    task.services.fault("drop_reply")
    assert task.submit(on_uncertain_submit="resubmit").generation_id == task.submitted[1]
    assert "may pay twice" in caplog.text


def test_resubmitting_once_and_no_more(task: Task) -> None:
    task.services.fault("drop_reply", times=None)
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.enter(on_uncertain_submit="resubmit")
    assert task.posts == 2
    assert task.store.states == ["intent", "intent", "uncertain"]


# ---------------------------------------------------------------------- with a look-up


@pytest.fixture
def ark(task: Task) -> Task:
    """Task on the service that can look up a lost submission."""
    task.api = "ark"
    return task


@pytest.mark.parametrize("kind", ["drop_reply", "cut_body", "rubbish"])
def test_a_lost_reply_is_looked_up(ark: Task, kind: str) -> None:
    ark.services.fault(kind)
    generation = ark.submit()
    assert [generation.generation_id] == ark.submitted
    assert ark.posts == 1
    assert ark.store.states == ["intent", "submitted"]
    assert generation.model == "dreamina-seedance-2-0-260128"  # from the request


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
def test_a_failed_look_up_is_repeated_by_the_next_try(
    ark: Task, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    """The first submission may be billed: only a look-up without a match allows another one."""
    caplog.set_level("INFO")
    ark.services.fault("drop_reply")
    ark.services.fault("cut", on="list", times=6)
    for _ in range(2):
        with pytest.raises(errors.SeedanceConnectionError, match="may have been billed") as caught:
            ark.enter(on_uncertain_submit=policy)
        assert caught.value.retry_helps
        assert ark.store.states == ["intent"]
        ark.ti.retry()
    assert "The uncertain submission cannot be looked up now: " in caplog.text
    assert [ark.submit(on_uncertain_submit=policy).generation_id] == ark.submitted
    found = f"The submission whose reply was lost was taken: it is generation {ark.submitted[0]}."
    assert found in caplog.messages
    assert ark.posts == 1
    # Without a store nothing is left to a later try.
    forgetful = Task(ark.services, "ark")
    forgetful.stored = False
    ark.services.fault("drop_reply", times=None)
    ark.services.fault("cut", on="list", times=None)
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        forgetful.enter()


def test_a_clear_of_a_reported_submission_pays_again_only_after_one_more_look_up(ark: Task) -> None:
    ark.services.fault("cut")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        ark.enter()
    ark.services.fault("cut", on="list", times=3)
    with pytest.raises(errors.SeedanceConnectionError, match="the next try, or one after a clear") as caught:
        ark.clear()
    assert caught.value.retry_helps
    ark.retry()
    assert ark.posts == 2


def test_a_rejected_resubmission_restores_the_uncertain_record(ark: Task) -> None:
    """The generation of the first submission can still be found by its correlation."""
    written: list[Any] = []
    ark.store.before = lambda what: written.append(ark.store.value) if ark.store.value else None
    ark.services.fault("cut")
    ark.services.fault("rate_limit", retry_after=1800)
    outcome = ark.enter(on_uncertain_submit="resubmit")
    assert isinstance(outcome, RetryLater)
    assert ark.store.states == ["intent", "intent", "intent"]
    assert ark.store.value == outcome.record.as_dict()
    assert ark.store.value["correlation"] == written[0]["correlation"] != written[-1]["correlation"]
    assert (written[0]["resubmitted"], written[-1]["resubmitted"]) == (False, True)


@pytest.mark.parametrize(
    ("status", "kind", "policy"),
    [
        (401, errors.SeedanceAuthenticationError, "fail"),
        (402, errors.SeedanceInsufficientCreditsError, "resubmit"),
        (403, errors.SeedanceForbiddenError, "fail"),
    ],
)
def test_a_look_up_that_the_key_does_not_allow_is_left_to_a_clear(
    ark: Task, status: int, kind: type[errors.SeedanceError], policy: str
) -> None:
    ark.services.fault("drop_reply")
    # A list that is forbidden is requested once more, for the model alone.
    ark.services.fault("gateway_error", on="list", status=status, times=12 if status == 403 else 6)
    for _ in range(2):
        with pytest.raises(kind, match="One generation may have been billed"):
            ark.enter(on_uncertain_submit=policy)
        assert ark.store.states == ["intent"]
        ark.ti.clear()
    assert [ark.submit(on_uncertain_submit=policy).generation_id] == ark.submitted
    assert ark.posts == 1


def test_a_generation_of_another_task_is_not_adopted(ark: Task) -> None:
    """The same prompt, submitted by another task a moment ago, is not this task's."""
    Task(ark.services, "ark").enter()
    ark.services.fault("cut")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        ark.enter()
    assert len(ark.submitted) == 1
    assert ark.services.ledger.count("list") == 6


@pytest.mark.parametrize("changed", [False, True])
def test_the_generation_of_a_killed_worker_is_found_by_the_next_try(ark: Task, changed: bool) -> None:
    ark.enter()
    ark.store.change(state="intent", generation_id=None, submitted_at=None)
    if changed:
        with pytest.raises(errors.SeedanceRequestChangedError) as caught:
            ark.retry(video("Another"))
        assert [caught.value.generation_id] == ark.submitted
    else:
        assert [ark.retry().generation_id] == ark.submitted == [ark.store.value["generation_id"]]
    assert ark.posts == 1


def test_a_correlation_field_of_the_users_own_is_left_alone(ark: Task) -> None:
    ark.services.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        ark.enter(video(PROMPT, extra_params={"safety_identifier": "user-7"}))
    assert ark.services.ledger.submissions[0].request["safety_identifier"] == "user-7"
    assert ark.services.ledger.count("list") == 0
