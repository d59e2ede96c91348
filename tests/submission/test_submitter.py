"""One entry into a task, against a service over real sockets and a store in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from helpers import ALL_APIS, image, video
from support import PROMPT, Store, TaskInstance, emulator_settings

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationRequest, GenerationStatus, utc_now
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission import submitter as module
from airflow_provider_seedance.submission.lookup import CALLBACK_TIMEOUT_SECONDS, AwaitingCallback
from airflow_provider_seedance.submission.store import WRITE_BACKOFF_SECONDS
from airflow_provider_seedance.submission.submitter import (
    HasGeneration,
    RetryLater,
    Submission,
    SubmissionPolicy,
)

NEVER = [api for api in ALL_APIS if api != "ark"]  # services that cannot look up a lost submission


def enter(
    emulator: SeedanceEmulator,
    api: str,
    store: Store | None,
    *,
    ti: TaskInstance | None = None,
    request: GenerationRequest | None = None,
    extra: dict[str, Any] | None = None,
    **policy: Any,
) -> HasGeneration | RetryLater:
    """Enter a task as the operator does."""
    settings = emulator_settings(emulator, api, **(extra or {}))
    ti = ti or TaskInstance()
    prepared = prepare_request(settings, request or video(PROMPT))
    with Client(settings) as client:
        return Submission(
            client=client,
            store=TaskStateStore(store),
            prepared=prepared,
            attempt=rec.Attempt(
                fingerprint=rec.Fingerprint.of(prepared.as_requested, api=api, base_url=settings.base_url),
                max_tries=ti.max_tries,
                try_number=ti.try_number,
            ),
            policy=SubmissionPolicy(**policy),
        ).submit_or_attach()


def attached(outcome: HasGeneration | RetryLater) -> HasGeneration:
    assert isinstance(outcome, HasGeneration)
    return outcome


def test_a_link_that_was_signed_anew_is_reported(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    for token in "12":
        request = video(PROMPT, images=[f"https://b.example/a.png?token={token}"])
        attached(enter(services, "ark", store, request=request))
    assert len(services.ledger.posts()) == 1
    (line,) = [line for line in caplog.messages if "signatures" in line]
    assert "count as the same files" in line


# ---------------------------------------------------------------------- the order of things


@pytest.mark.parametrize("api", ALL_APIS)
def test_the_intent_is_written_before_the_service_hears_of_it(services: SeedanceEmulator, api: str) -> None:
    store = Store()
    services.hold()
    fault = services.fault("delay", hold=True)
    thread = threading.Thread(target=enter, args=(services, api, store))
    thread.start()
    try:
        while not services.ledger.posts():
            thread.join(0.01)
            assert thread.is_alive()
        assert store.states == ["intent"]
        assert store.value["generation_id"] is None
        assert services.ledger.submissions == []
    finally:
        fault.release()
        thread.join()
    assert store.states == ["intent", "submitted"]
    assert store.value["generation_id"] == services.ledger.submissions[0].generation_id


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_submission(services: SeedanceEmulator, api: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    with caplog.at_level(logging.INFO, logger=module.__name__):
        outcome = attached(enter(services, api, store, end_from_trigger=True))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert outcome.record.as_dict() == store.value
    assert store.value["end_from_trigger"] is True
    assert "billed from now on" in caplog.text
    assert outcome.generation.generation_id in caplog.text


def test_what_the_request_tells_is_in_the_record(services: SeedanceEmulator) -> None:
    store = Store()
    enter(services, "seedanceapi-v1", store, request=video(PROMPT, duration=8, resolution="480p"))
    assert store.value["result_defaults"] == {
        "duration": 8,
        "resolution": "480p",
        "credits": 14,
        "cost_usd": 0.07,
    }


def test_the_record_holds_no_prompt_no_key_and_no_url(services: SeedanceEmulator) -> None:
    store = Store()
    request = video(PROMPT, images=["https://b.example/in.png?sig=topsecret"])
    enter(services, "ark", store, request=request)
    text = str(store.texts)
    for secret in (PROMPT, services.key, "b.example", "topsecret"):
        assert secret not in text


@pytest.mark.parametrize("api", ALL_APIS)
@pytest.mark.parametrize("access", ["get", "set"])
def test_no_record_no_submission(services: SeedanceEmulator, api: str, access: str) -> None:
    store = Store()
    store.break_down(access)
    with pytest.raises(errors.SeedanceStateError) as caught:
        enter(services, api, store)
    assert services.ledger.requests == []
    assert "othing" in caught.value.message
    assert "submitted" in caught.value.message
    assert caught.value.retry_helps


def test_an_unreadable_record_is_not_overwritten(services: SeedanceEmulator) -> None:
    store = Store({"version": 2, "state": "ended"})
    for _ in range(2):
        with pytest.raises(errors.SeedanceRecordError):
            enter(services, "ark", store)
    assert store.value == {"version": 2, "state": "ended"}
    assert services.ledger.requests == []


def test_an_id_that_cannot_be_written_at_once_is_written_in_the_end(services: SeedanceEmulator) -> None:
    store = Store()
    writes: list[str] = []

    def before(what: str) -> None:
        writes.append(what)
        if writes.count("set") in (2, 3):
            raise ConnectionError("away")

    store.before = before
    outcome = attached(enter(services, "runbase", store))
    assert store.value["generation_id"] == outcome.generation.generation_id


def test_an_id_that_cannot_be_written_is_still_waited_for(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()

    def before(what: str) -> None:
        if store.states:
            raise ConnectionError("away")

    store.before = before
    outcome = attached(enter(services, "runbase", store))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert store.states == ["intent"]
    errors_logged = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert len(errors_logged) == len(WRITE_BACKOFF_SECONDS) + 1
    # The next try knows of the intent, and does not repeat it.
    store.before = lambda what: None
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "runbase", store, ti=TaskInstance(try_number=2))
    assert len(services.ledger.posts()) == 1


# ---------------------------------------------------------------------- the four fates


@pytest.mark.parametrize("api", NEVER)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("drop_reply", {}),
        ("cut", {}),
        ("cut_body", {}),
        ("rubbish", {}),
        ("gateway_error", {"accept": True}),
        ("gateway_error", {"status": 503}),
        ("gateway_error", {"status": 524}),
        ("redirect", {}),
    ],
)
def test_an_unknown_fate(services: SeedanceEmulator, api: str, kind: str, options: dict[str, Any]) -> None:
    store = Store()
    services.fault(kind, **options)
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        enter(services, api, store)
    for words in ("may have been billed", api, "console", "clear this task"):
        assert words in caught.value.message
    assert store.states == ["intent", "uncertain"]
    # A retry does not repeat it; a clear, now that it was reported, does.
    ti = TaskInstance()
    ti.retry()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, api, store, ti=ti)
    assert len(services.ledger.posts()) == 1
    ti.clear()
    outcome = attached(enter(services, api, store, ti=ti))
    assert outcome.generation.generation_id == services.ledger.submissions[-1].generation_id
    assert len(services.ledger.posts()) == 2


@pytest.mark.parametrize("kind", ["drop_reply", "cut_body", "rubbish"])
def test_a_lost_reply_is_looked_up_where_the_service_can(services: SeedanceEmulator, kind: str) -> None:
    store = Store()
    services.fault(kind)
    outcome = attached(enter(services, "ark", store))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1
    assert store.states == ["intent", "submitted"]
    assert outcome.generation.model == "dreamina-seedance-2-0-260128"  # from the request


def test_a_failed_look_up_is_repeated_by_the_next_try(
    services: SeedanceEmulator,
) -> None:
    store, ti = Store(), TaskInstance()
    services.fault("drop_reply")
    services.fault("cut", on="list", times=6)
    for _ in range(2):
        with pytest.raises(
            errors.SeedanceConnectionError, match="One generation may have been billed"
        ) as caught:
            enter(services, "ark", store, ti=ti)
        assert caught.value.retry_helps
        assert store.states == ["intent"]
        ti.retry()
    outcome = attached(enter(services, "ark", store, ti=ti))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1


def test_a_person_who_clears_what_was_reported_pays_again_only_after_one_more_look(
    services: SeedanceEmulator,
) -> None:
    store, ti = Store(), TaskInstance()
    services.fault("cut")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "ark", store, ti=ti)
    ti.clear()
    services.fault("cut", on="list", times=3)
    with pytest.raises(errors.SeedanceConnectionError, match="the next try, or one after a clear") as caught:
        enter(services, "ark", store, ti=ti)
    assert caught.value.retry_helps
    ti.retry()
    attached(enter(services, "ark", store, ti=ti))
    assert len(services.ledger.posts()) == 2


def test_a_rejected_resubmission_restores_the_uncertain_record(services: SeedanceEmulator) -> None:
    """On ark the generation of the first submission can still be found by its correlation."""
    store, written = Store(), list[Any]()
    store.before = lambda what: written.append(store.value) if store.value else None
    services.fault("cut")
    services.fault("rate_limit", retry_after=1800)
    outcome = enter(services, "ark", store, on_uncertain_submit="resubmit")
    assert isinstance(outcome, RetryLater)
    assert store.states == ["intent", "intent", "intent"]
    assert store.value == outcome.record.as_dict() if outcome.record else False
    assert store.value["correlation"] == written[0]["correlation"] != written[-1]["correlation"]
    assert (written[0]["resubmitted"], written[-1]["resubmitted"]) == (False, True)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in a retry"])
def test_nothing_is_submitted_again_while_the_look_up_fails(services: SeedanceEmulator, later: bool) -> None:
    """The first submission may be billed: only a look-up without a match allows another one."""
    store, ti = Store(), TaskInstance()
    services.fault("drop_reply")
    services.fault("cut", on="list", times=6 if later else 3)
    for _ in range(1 + later):
        with pytest.raises(errors.SeedanceConnectionError):
            enter(services, "ark", store, ti=ti, on_uncertain_submit="resubmit")
        assert store.states == ["intent"]
        ti.retry()
    outcome = attached(enter(services, "ark", store, ti=ti, on_uncertain_submit="resubmit"))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.SeedanceAuthenticationError),
        (402, errors.SeedanceInsufficientCreditsError),
        (403, errors.SeedanceForbiddenError),
    ],
)
@pytest.mark.parametrize("policy", ["fail", "resubmit"])
def test_a_key_that_may_not_look_leaves_the_look_to_a_clear(
    services: SeedanceEmulator, status: int, kind: type[errors.SeedanceError], policy: str
) -> None:
    store, ti = Store(), TaskInstance()
    services.fault("drop_reply")
    services.fault("gateway_error", on="list", status=status, times=6)
    for _ in range(2):
        with pytest.raises(kind, match="One generation may have been billed"):
            enter(services, "ark", store, ti=ti, on_uncertain_submit=policy)
        assert store.states == ["intent"]
        ti.clear()
    outcome = attached(enter(services, "ark", store, ti=ti, on_uncertain_submit=policy))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1


def test_without_a_store_nothing_is_left_to_a_later_try(services: SeedanceEmulator) -> None:
    services.fault("drop_reply")
    services.fault("cut", on="list", times=None)
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "ark", None)


def test_a_generation_of_another_task_is_not_adopted(services: SeedanceEmulator) -> None:
    """The same prompt, submitted by another task a moment ago, is not this task's."""
    enter(services, "ark", Store())
    services.fault("cut")
    store = Store()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "ark", store)
    assert len(services.ledger.submissions) == 1
    assert services.ledger.count("list") == 3


def test_a_try_that_died_before_its_reply_is_found_by_the_next(services: SeedanceEmulator) -> None:
    first = Store()
    enter(services, "ark", first)
    # What the store held when the worker died: the intent.
    first.change(state="intent", generation_id=None, submitted_at=None)
    outcome = attached(enter(services, "ark", first, ti=TaskInstance(try_number=2)))
    assert outcome.generation.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1
    assert first.value["generation_id"] == outcome.generation.generation_id


def test_a_generation_that_is_found_is_not_taken_for_another_request(services: SeedanceEmulator) -> None:
    store = Store()
    enter(services, "ark", store)
    store.change(state="intent", generation_id=None)
    with pytest.raises(errors.SeedanceRequestChangedError) as caught:
        enter(services, "ark", store, ti=TaskInstance(try_number=2), request=video("Another"))
    assert caught.value.generation_id == services.ledger.submissions[0].generation_id
    assert len(services.ledger.posts()) == 1


def test_a_correlation_field_of_the_users_own_is_left_alone(services: SeedanceEmulator) -> None:
    store = Store()
    services.fault("drop_reply")
    request = video(PROMPT, extra_params={"safety_identifier": "user-7"})
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "ark", store, request=request)
    assert services.ledger.submissions[0].request["safety_identifier"] == "user-7"
    assert services.ledger.count("list") == 0


@pytest.mark.parametrize("api", NEVER)
def test_resubmitting_once_by_the_dag_authors_decision(
    services: SeedanceEmulator, api: str, caplog: pytest.LogCaptureFixture
) -> None:
    services.fault("drop_reply")
    outcome = attached(enter(services, api, Store(), on_uncertain_submit="resubmit"))
    assert outcome.generation.generation_id == services.ledger.submissions[1].generation_id
    assert "may pay twice" in caplog.text


def test_resubmitting_once_and_no_more(services: SeedanceEmulator) -> None:
    services.fault("drop_reply", times=None)
    store = Store()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "runbase", store, on_uncertain_submit="resubmit")
    assert len(services.ledger.posts()) == 2
    assert store.states == ["intent", "intent", "uncertain"]


@pytest.mark.parametrize("api", ALL_APIS)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.SeedanceRequestError),
        (401, errors.SeedanceAuthenticationError),
        (402, errors.SeedanceInsufficientCreditsError),
        (403, errors.SeedanceForbiddenError),
    ],
)
def test_a_refusal(
    services: SeedanceEmulator, api: str, status: int, error: type[errors.SeedanceError]
) -> None:
    store = Store()
    services.fault("refuse", status=status)
    with pytest.raises(error) as caught:
        enter(services, api, store)
    assert caught.value.http_status == status
    assert not caught.value.retry_helps
    assert store.states == ["intent", "not_submitted"]
    assert len(services.ledger.posts()) == 1
    # Nothing was billed: any later try submits without asking.
    enter(services, api, store, ti=TaskInstance(try_number=2))
    assert len(services.ledger.submissions) == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_short_quota_is_waited_for_here(services: SeedanceEmulator, api: str) -> None:
    services.hold()
    services.fault("rate_limit", retry_after=0)
    store = Store()
    attached(enter(services, api, store))
    assert [post.status == 429 for post in services.ledger.posts()] == [True, False]
    assert store.states == ["intent", "submitted"]


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_long_quota_is_not_waited_for_on_a_worker(services: SeedanceEmulator, api: str) -> None:
    services.fault("rate_limit", retry_after=1800)
    store = Store()
    outcome = enter(services, api, store)
    assert isinstance(outcome, RetryLater)
    assert outcome.seconds(0) == pytest.approx(1800, abs=30)
    assert isinstance(outcome.error, errors.SeedanceRateLimitError)
    assert len(services.ledger.posts()) == 1
    assert store.states == ["intent", "not_submitted"]
    attached(enter(services, api, store))
    assert len(services.ledger.submissions) == 1


def test_a_quota_that_names_no_time() -> None:
    assert RetryLater(errors.SeedanceRateLimitError("429")).seconds(0) == module.DEFAULT_RETRY_AFTER_SECONDS
    assert RetryLater(errors.SeedanceRateLimitError("429", retry_after=0)).seconds(0) == 0


def test_the_delay_grows_with_consecutive_rejections() -> None:
    postponed = RetryLater(errors.SeedanceRateLimitError("429", retry_after=0))
    waits = [postponed.seconds(refusals) for refusals in range(1, 400)]
    assert waits[:3] == [30, 60, 120]
    assert waits == sorted(waits)
    assert waits[-1] == module.MAX_BACKOFF_SECONDS
    assert RetryLater(errors.SeedanceRateLimitError("429", retry_after=9000)).seconds(5) == 9000


def test_a_submission_that_was_put_off_before_is_tried_once(services: SeedanceEmulator) -> None:
    services.fault("rate_limit", times=None, retry_after=0)
    settings = emulator_settings(services, "runbase")
    prepared = prepare_request(settings, video(PROMPT))
    fingerprint = rec.Fingerprint.of(prepared.as_requested, api="runbase", base_url=settings.base_url)
    with Client(settings) as client:
        outcome = Submission(
            client=client,
            store=TaskStateStore(Store()),
            prepared=prepared,
            attempt=rec.Attempt(fingerprint=fingerprint, max_tries=1, try_number=1),
            policy=SubmissionPolicy(),
            retry_inline=False,
        ).submit_or_attach()
    assert isinstance(outcome, RetryLater)
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_new_take_that_is_refused_does_not_forget_the_old_one(services: SeedanceEmulator, api: str) -> None:
    store, ti = Store(), TaskInstance()
    old = attached(enter(services, api, store, ti=ti)).generation.generation_id
    ti.clear()
    services.fault("refuse", status=400, code="INVALID", message="not now")
    with pytest.raises(errors.SeedanceError):
        enter(services, api, store, ti=ti, on_clear="new")
    assert len(services.ledger.submissions) == 1
    ti.clear()
    delivered = attached(enter(services, api, store, ti=ti, on_clear="reuse")).generation
    assert delivered.generation_id == old
    assert len(services.ledger.submissions) == 1


def test_an_interrupted_submission_without_a_store_is_final(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Client, flow: Any) -> Any:
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr(Client, "run", interrupted)
    with pytest.raises(errors.SeedanceUnrecordedError, match="may be billed"):
        enter(services, "runbase", None)
    with pytest.raises(AirflowTaskTimeout):
        enter(services, "runbase", Store())


def test_a_quota_that_stays_is_given_up_after_a_few_tries(services: SeedanceEmulator) -> None:
    services.fault("rate_limit", retry_after=None, times=None)
    outcome = enter(services, "seedanceapi-v2", Store())
    assert isinstance(outcome, RetryLater)
    assert len(services.ledger.posts()) == 4


def test_a_service_that_cannot_be_reached(services: SeedanceEmulator) -> None:
    store = Store()
    services.stop()
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        enter(services, "runbase", store)
    assert caught.value.retry_helps
    assert store.states == ["intent", "not_submitted"]


def test_a_failed_note_about_a_refusal_only_makes_the_next_try_more_careful(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    services.fault("refuse", status=400)

    def before(what: str) -> None:
        if store.states:
            raise ConnectionError("away")

    store.before = before
    with pytest.raises(errors.SeedanceRequestError):
        enter(services, "runbase", store)
    assert "as uncertain" in caplog.text
    store.before = lambda what: None
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        enter(services, "runbase", store, ti=TaskInstance(try_number=2))


# ---------------------------------------------------------------------- an earlier submission


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_retry_goes_on_with_a_running_generation(
    start_emulator: Callable[..., SeedanceEmulator], quick: None, api: str
) -> None:
    emulator = start_emulator(render_seconds=1000)
    store, ti = Store(), TaskInstance()
    first = attached(enter(emulator, api, store, ti=ti))
    for step in (ti.retry, ti.clear):
        step()
        again = attached(enter(emulator, api, store, ti=ti))
        assert again.generation.generation_id == first.generation.generation_id
        assert not again.generation.status.terminal
        assert store.value["max_tries"] == ti.max_tries
        assert store.value["try_number"] == ti.try_number
    assert len(emulator.ledger.posts()) == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_finished_generation_is_delivered_at_the_cost_of_one_reading(
    services: SeedanceEmulator, api: str
) -> None:
    store = Store()
    first = attached(enter(services, api, store))
    outcome = attached(enter(services, api, store, ti=TaskInstance(try_number=2)))
    assert outcome.generation.status is GenerationStatus.SUCCEEDED
    assert outcome.generation.generation_id == first.generation.generation_id
    assert outcome.generation.url
    assert outcome.record.state is rec.RecordState.ENDED
    assert services.ledger.count("status") == 1
    assert services.ledger.count("result") == (1 if api == "seedance2api" else 0)
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize(("on_clear", "posts"), [("reuse", 1), ("new", 2)])
def test_a_clear_after_success(services: SeedanceEmulator, on_clear: Any, posts: int) -> None:
    store, ti = Store(), TaskInstance()
    enter(services, "seedanceapi-v2", store, ti=ti)
    ti.clear()
    outcome = attached(enter(services, "seedanceapi-v2", store, ti=ti, on_clear=on_clear))
    assert len(services.ledger.posts()) == posts
    assert outcome.generation.generation_id == services.ledger.submissions[-1].generation_id


@pytest.mark.parametrize("end", ["fail", "expire"])
def test_a_generation_that_failed_is_made_anew(
    start_emulator: Callable[..., SeedanceEmulator], quick: None, end: str
) -> None:
    emulator = start_emulator(render_seconds=1000)
    store = Store()
    first = attached(enter(emulator, "ark", store)).generation.generation_id
    if end == "fail":
        emulator.fail(first, "no")
    else:
        emulator.expire(first)
    again = attached(enter(emulator, "ark", store, ti=TaskInstance(try_number=2)))
    assert again.generation.generation_id != first
    assert len(emulator.ledger.submissions) == 2


def test_a_recorded_end_is_not_read_again(services: SeedanceEmulator) -> None:
    store = Store()
    enter(services, "runbase", store)
    store.change(state="ended", status="failed")
    enter(services, "runbase", store, ti=TaskInstance(try_number=2))
    assert services.ledger.count("status") == 0
    assert len(services.ledger.posts()) == 2


def test_what_a_person_cancelled_stays_cancelled(
    start_emulator: Callable[..., SeedanceEmulator], quick: None
) -> None:
    emulator = start_emulator(render_seconds=1000)
    store, ti = Store(), TaskInstance()
    first = attached(enter(emulator, "ark", store, ti=ti)).generation.generation_id
    emulator.cancel_remote(first)
    ti.retry()
    with pytest.raises(errors.SeedanceGenerationCancelledError) as caught:
        enter(emulator, "ark", store, ti=ti)
    assert first in caught.value.message
    assert len(emulator.ledger.posts()) == 1
    ti.clear()
    enter(emulator, "ark", store, ti=ti)
    assert len(emulator.ledger.posts()) == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("refuse", {"status": 401}),
        ("refuse", {"status": 500}),
        ("gateway_error", {}),
        ("rate_limit", {"retry_after": 1800}),
        ("rubbish", {}),
        ("cut", {}),
    ],
)
@pytest.mark.parametrize("step", ["retry", "clear"])
def test_a_state_that_cannot_be_read_is_waited_for(
    services: SeedanceEmulator, kind: str, options: dict[str, Any], step: str
) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, "seedanceapi-v2", store, ti=ti))
    services.fault(kind, on="status", times=None, **options)
    getattr(ti, step)()
    outcome = attached(enter(services, "seedanceapi-v2", store, ti=ti, on_clear="new"))
    assert outcome.generation.generation_id == first.generation.generation_id
    assert outcome.generation.status is GenerationStatus.QUEUED
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_generation_the_service_forgot(services: SeedanceEmulator, api: str) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, api, store, ti=ti)).generation.generation_id
    services.forget(first)
    ti.retry()
    with pytest.raises(errors.SeedanceNotFoundError) as caught:
        enter(services, api, store, ti=ti)
    assert first in caught.value.message
    assert len(services.ledger.posts()) == 1
    ti.clear()
    enter(services, api, store, ti=ti)
    assert len(services.ledger.posts()) == 2


@pytest.mark.parametrize("api", ALL_APIS)
@pytest.mark.parametrize("again", [TaskInstance.retry, TaskInstance.clear])
def test_a_new_id_that_the_service_does_not_know_yet_is_read_again(
    services: SeedanceEmulator, api: str, again: Callable[[TaskInstance], None]
) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, api, store, ti=ti)).generation.generation_id
    services.fault("refuse", on="status", status=404, times=3)
    again(ti)
    assert attached(enter(services, api, store, ti=ti)).generation.generation_id == first
    assert len(services.ledger.posts()) == 1


def test_an_old_id_that_the_service_does_not_know_is_read_once(services: SeedanceEmulator) -> None:
    store, ti = Store(), TaskInstance()
    services.forget(attached(enter(services, "ark", store, ti=ti)).generation.generation_id)
    store.change(submitted_at="2026-02-07T10:40:00Z")
    ti.retry()
    with pytest.raises(errors.SeedanceNotFoundError):
        enter(services, "ark", store, ti=ti)
    assert [entry.kind for entry in services.ledger.requests].count("status") == 1


def test_a_changed_request_in_a_retry(services: SeedanceEmulator) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, "runbase", store, ti=ti)).generation.generation_id
    ti.retry()
    with pytest.raises(errors.SeedanceRequestChangedError) as caught:
        enter(services, "runbase", store, ti=ti, request=video(PROMPT, duration=8))
    assert caught.value.generation_id == first
    assert "duration" in caught.value.message
    assert store.value["generation_id"] == first  # the paid one stays on record
    outcome = attached(enter(services, "runbase", store, ti=ti))
    assert outcome.generation.generation_id == first


def test_a_re_attachment_that_cannot_be_written_waits_all_the_same(services: SeedanceEmulator) -> None:
    store, ti = Store(), TaskInstance()
    services.hold()
    first = attached(enter(services, "runbase", store, ti=ti)).generation.generation_id
    ti.clear()
    store.break_down("set")
    assert attached(enter(services, "runbase", store, ti=ti)).generation.generation_id == first
    assert len(services.ledger.posts()) == 1


# ---------------------------------------------------------------------- synchronous images


@pytest.mark.parametrize("api", ["ark", "seedance2api"])
def test_images_are_recorded_whole_and_delivered_without_a_request(
    services: SeedanceEmulator, api: str
) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, api, store, ti=ti, request=image(PROMPT, num_images=2)))
    assert first.generation.status is GenerationStatus.SUCCEEDED
    assert store.states == ["intent", "ended"]
    assert store.value["result"] == first.generation.result()
    before = len(services.ledger.requests)
    for step in (ti.retry, ti.clear):
        step()
        again = attached(enter(services, api, store, ti=ti, request=image(PROMPT, num_images=2)))
        assert again.generation.result() == first.generation.result()
    assert len(services.ledger.requests) == before


def test_a_video_that_is_ready_at_once_is_read_again_by_its_id(services: SeedanceEmulator) -> None:
    """Its links may have expired since; a new reading brings new ones."""
    store = Store()
    first = attached(enter(services, "runbase", store))
    assert first.generation.status is GenerationStatus.SUCCEEDED
    assert (store.value["state"], store.value["status"], store.value["result"]) == (
        "ended",
        "succeeded",
        None,
    )
    enter(services, "runbase", store, ti=TaskInstance(try_number=2))
    assert services.ledger.count("status") == 1
    assert len(services.ledger.posts()) == 1


def test_images_without_an_id_get_one_of_ours(services: SeedanceEmulator) -> None:
    outcome = attached(enter(services, "ark", Store(), request=image(PROMPT)))
    assert outcome.generation.generation_id.startswith("local-")


def test_images_whose_links_expired(services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    store, ti = Store(), TaskInstance()
    first = attached(enter(services, "ark", store, ti=ti, request=image(PROMPT)))
    later = utc_now() + timedelta(hours=25)
    monkeypatch.setattr(module, "utc_now", lambda: later)
    ti.retry()
    with pytest.raises(errors.SeedanceOutputGoneError) as caught:
        enter(services, "ark", store, ti=ti, request=image(PROMPT))
    assert first.generation.generation_id in caught.value.message
    assert "was billed" in caught.value.message
    assert len(services.ledger.posts()) == 1
    ti.clear()
    attached(enter(services, "ark", store, ti=ti, request=image(PROMPT)))
    assert len(services.ledger.posts()) == 2


def test_a_recorded_result_that_cannot_be_read(services: SeedanceEmulator) -> None:
    store = Store()
    enter(services, "ark", store, request=image(PROMPT))
    store.change(result={"urls": 5})
    with pytest.raises(errors.SeedanceRecordError) as caught:
        enter(services, "ark", store, ti=TaskInstance(try_number=2), request=image(PROMPT))
    assert caught.value.generation_id == store.value["generation_id"]
    assert len(services.ledger.posts()) == 1


# ---------------------------------------------------------------------- below Airflow 3.3


def test_without_a_store_every_submission_is_warned_about(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        attached(enter(services, "runbase", None))
    warnings = [line.message for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all("no task state store" in line and "pays again" in line for line in warnings)


# ---------------------------------------------------------------------- called back


def test_a_lost_reply_is_waited_for_where_the_service_calls(services: SeedanceEmulator) -> None:
    store, nonces = Store(), []

    def address(nonce: str) -> str:
        nonces.append(nonce)
        return f"http://127.0.0.1:1/{nonce}"

    services.fault("drop_reply")
    outcome = enter(services, "seedanceapi-v1", store, callback_url=address)
    assert isinstance(outcome, AwaitingCallback)
    assert nonces == [store.value["callback_nonce"]]
    assert outcome.record.callback_nonce == nonces[0]
    assert outcome.record.intended_at is not None
    assert outcome.until == outcome.record.intended_at.timestamp() + CALLBACK_TIMEOUT_SECONDS
    assert services.ledger.submissions[0].callback_url == f"http://127.0.0.1:1/{nonces[0]}"
    # The task has not failed yet, so nothing was reported.
    assert store.states == ["intent"]


def test_what_was_certainly_not_taken_is_not_waited_for(services: SeedanceEmulator) -> None:
    store = Store()
    services.fault("refuse", status=400)
    with pytest.raises(errors.SeedanceRequestError):
        enter(services, "seedanceapi-v1", store, callback_url=lambda nonce: "http://127.0.0.1:1/")
    assert store.states == ["intent", "not_submitted"]


def test_a_nonce_says_nothing_about_its_submission(services: SeedanceEmulator) -> None:
    stores = [Store(), Store()]
    for store in stores:
        enter(services, "ark", store, callback_url=lambda nonce: "http://127.0.0.1:1/")
    one, other = (store.value["callback_nonce"] for store in stores)
    assert one != other
    assert len(one) >= 16
