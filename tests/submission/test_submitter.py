"""Entries into a task that knows of no generation: records before requests, refusals, and lost replies."""

from __future__ import annotations

import logging
import threading
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from helpers import ALL_APIS, video
from support import PROMPT

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.submission import submitter as module
from airflow_provider_seedance.submission.submission_result import AwaitingCallback, RetryLater
from airflow_provider_seedance.submission.timing import TIMING
from submission.entry import Task

# ---------------------------------------------------------------------- records before requests


def test_the_intent_is_written_before_the_service_hears_of_it(task: Task) -> None:
    task.services.hold()
    fault = task.services.fault("delay", hold=True)
    thread = threading.Thread(target=task.enter)
    thread.start()
    try:
        while not task.posts:
            thread.join(0.01)
            assert thread.is_alive()
        assert task.store.states == ["intent"]
        assert task.store.value["generation_id"] is None
        assert task.submitted == []
    finally:
        fault.release()
        thread.join()
    assert task.store.states == ["intent", "submitted"]
    assert [task.store.value["generation_id"]] == task.submitted


@pytest.mark.parametrize("api", ["ark"])
def test_a_submission(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    task.request = video(PROMPT, images=["https://b.example/in.png?sig=topsecret"])
    with caplog.at_level(logging.INFO, logger=module.__name__):
        outcome = task.attach(end_from_trigger=True)
    assert [outcome.generation.generation_id] == task.submitted
    assert outcome.record.as_dict() == task.store.value
    assert task.store.value["end_from_trigger"] is True
    title = get_api(task.api).title
    message = f"Submitted generation {outcome.generation.generation_id} to {title}; it is billed from now on."
    assert message in caplog.messages
    text = str(task.store.texts)
    for secret in (PROMPT, task.services.key, "b.example", "topsecret"):
        assert secret not in text


def test_no_record_no_submission(task: Task) -> None:
    for access in ("get", "set"):
        task.store.break_down(access)
        with pytest.raises(errors.SeedanceStateError, match=r"othing.* submitted") as caught:
            task.enter()
        assert task.services.ledger.requests == []
        assert caught.value.retry_helps


@pytest.fixture
def losing(task: Task) -> Task:
    """Task whose store writes the intent, and then nothing until the next try."""
    away = Mock(side_effect=ConnectionError("away"))
    task.store.before = lambda what: away() if task.store.states and task.ti.try_number == 1 else None
    return task


def test_an_id_that_cannot_be_written_is_waited_for(losing: Task, caplog: pytest.LogCaptureFixture) -> None:
    assert [losing.submit().generation_id] == losing.submitted
    assert losing.store.states == ["intent"]
    errors_logged = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert len(errors_logged) == len(TIMING.write_backoff) + 1
    # The next try knows of the intent, and does not repeat it.
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        losing.retry()
    assert losing.posts == 1


def test_an_unwritten_refusal_is_uncertain_later(losing: Task, caplog: pytest.LogCaptureFixture) -> None:
    losing.services.fault("refuse", status=400)
    with pytest.raises(errors.SeedanceRequestError):
        losing.enter()
    assert "as uncertain" in caplog.text
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        losing.retry()


REFUSALS = [
    (400, errors.SeedanceRequestError),
    (401, errors.SeedanceAuthenticationError),
    (402, errors.SeedanceInsufficientCreditsError),
    (403, errors.SeedanceForbiddenError),
]


@pytest.mark.parametrize(
    ("api", "status", "error"), [(api, *refusal) for api, refusal in zip(ALL_APIS, REFUSALS * 2, strict=True)]
)
def test_a_refusal(task: Task, status: int, error: type[errors.SeedanceError]) -> None:
    task.services.fault("refuse", status=status)
    with pytest.raises(error) as caught:
        task.enter()
    assert caught.value.http_status == status
    assert not caught.value.retry_helps
    assert task.store.states == ["intent", "not_submitted"]
    assert task.posts == 1
    # Nothing was billed: any later try submits.
    task.retry()
    assert len(task.submitted) == 1


def test_a_service_that_cannot_be_reached(task: Task) -> None:
    task.services.stop()
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        task.enter()
    assert caught.value.retry_helps
    assert task.store.states == ["intent", "not_submitted"]


# ---------------------------------------------------------------------- rate limits


def test_a_short_quota_is_waited_for_here(task: Task) -> None:
    task.services.hold()
    task.services.fault("rate_limit", retry_after=0)
    task.submit()
    assert [post.status == 429 for post in task.services.ledger.posts()] == [True, False]
    assert task.store.states == ["intent", "submitted"]


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_long_quota_is_not_waited_for_on_a_worker(task: Task) -> None:
    task.services.fault("rate_limit", retry_after=1800)
    outcome = task.enter()
    assert isinstance(outcome, RetryLater)
    assert outcome.seconds(0) == pytest.approx(1800, abs=30)
    assert isinstance(outcome.error, errors.SeedanceRateLimitError)
    assert task.posts == 1
    assert task.store.states == ["intent", "not_submitted"]
    task.submit()
    assert len(task.submitted) == 1


def test_a_quota_that_stays_is_given_up_after_a_few_tries(task: Task) -> None:
    task.services.fault("rate_limit", retry_after=None, times=None)
    assert isinstance(task.enter(), RetryLater)
    assert task.posts == 4
    task.retry_inline = False  # for it was put off before
    assert isinstance(task.enter(), RetryLater)
    assert task.posts == 5


def test_the_delay_grows_with_consecutive_rejections() -> None:
    assert RetryLater(errors.SeedanceRateLimitError("429")).seconds(0) == TIMING.retry_after
    postponed = RetryLater(errors.SeedanceRateLimitError("429", retry_after=0))
    assert postponed.seconds(0) == 0
    waits = [postponed.seconds(refusals) for refusals in range(1, 400)]
    assert waits[:3] == [30, 60, 120]
    assert waits == sorted(waits)
    assert waits[-1] == TIMING.max_backoff
    assert RetryLater(errors.SeedanceRateLimitError("429", retry_after=9000)).seconds(5) == 9000


def test_without_a_store_each_submission_warns(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    task.stored = False
    for _ in range(2):
        task.submit()
    assert [line.message for line in caplog.records if line.levelno == logging.WARNING] == 2 * [
        "This Airflow has no task state store (it came with 3.3): if the worker is lost between now and the end of this "
        "task, a retry cannot know of this submission and pays again."
    ]


def test_an_interruption_without_a_store_is_final(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "run", Mock(side_effect=AirflowTaskTimeout))
    with pytest.raises(AirflowTaskTimeout):
        task.enter()
    task.stored = False
    with pytest.raises(errors.SeedanceUnrecordedError, match="may be billed"):
        task.enter()


@pytest.mark.parametrize("api", ["seedanceapi-v1"])
def test_a_lost_reply_is_waited_for_where_the_service_calls_and_a_refusal_is_not(task: Task) -> None:
    task.services.fault("refuse", status=400)
    with pytest.raises(errors.SeedanceRequestError):
        task.enter(callback_url="http://127.0.0.1:1/{}".format)
    assert task.store.states == ["intent", "not_submitted"]
    task.services.fault("drop_reply")
    outcome = task.enter(callback_url="http://127.0.0.1:1/{}".format)
    assert isinstance(outcome, AwaitingCallback)
    nonce = outcome.record.callback_nonce
    assert task.store.value["callback_nonce"] == nonce
    assert outcome.until == outcome.record.intended_at.timestamp() + TIMING.callback_timeout
    assert task.services.ledger.submissions[0].callback_url == f"http://127.0.0.1:1/{nonce}"
    # The task has not failed yet, so nothing was reported.
    assert task.store.states[2:] == ["intent"]


# ---------------------------------------------------------------------- lost replies, without a look-up

WITHOUT_LOOKUP = [api for api in ALL_APIS if api not in ("ark", "fal")]

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


# ---------------------------------------------------------------------- lost replies, with a look-up


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
def test_a_failed_look_up_is_repeated(ark: Task, caplog: pytest.LogCaptureFixture, policy: str) -> None:
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
