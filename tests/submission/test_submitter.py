"""One entry into a task without an earlier generation: order of records and requests, and outcomes."""

from __future__ import annotations

import logging
import threading
from unittest.mock import Mock

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from helpers import ALL_APIS, video
from support import PROMPT, Store

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


def fail_after_the_intent(store: Store) -> None:
    def before(what: str) -> None:
        if store.states:
            raise ConnectionError("away")

    store.before = before


def test_an_id_that_cannot_be_written_is_waited_for(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    fail_after_the_intent(task.store)
    assert [task.submit().generation_id] == task.submitted
    assert task.store.states == ["intent"]
    errors_logged = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert len(errors_logged) == len(TIMING.write_backoff) + 1
    # The next try knows of the intent, and does not repeat it.
    task.store.before = lambda what: None
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.retry()
    assert task.posts == 1


def test_a_failed_note_about_a_refusal_is_uncertain_later(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    task.services.fault("refuse", status=400)
    fail_after_the_intent(task.store)
    with pytest.raises(errors.SeedanceRequestError):
        task.enter()
    assert "as uncertain" in caplog.text
    task.store.before = lambda what: None
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.retry()


# ---------------------------------------------------------------------- refused


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


# ---------------------------------------------------------------------- without a store


def test_without_a_store_each_submission_warns(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    task.stored = False
    for _ in range(2):
        task.submit()
    warnings = [line.message for line in caplog.records if line.levelno == logging.WARNING]
    assert warnings == 2 * [
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


# ---------------------------------------------------------------------- callbacks


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
