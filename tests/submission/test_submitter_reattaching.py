"""Entries into a task that has a generation already."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from helpers import ALL_APIS, image, video
from support import PROMPT

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import GenerationStatus, utc_now
from airflow_provider_seedance.submission import lookup
from airflow_provider_seedance.submission import records as rec
from submission.entry import Task


@pytest.fixture
def held(task: Task) -> Task:
    """Task whose generation ends when the test says so."""
    task.services.hold()
    return task


@pytest.mark.parametrize("api", ["ark"])
def test_a_link_with_another_signature_is_reported(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    for token in "12":
        made = task.submit(video(PROMPT, images=[f"https://b.example/a.png?token={token}"]))
    assert task.posts == 1
    (line,) = [line for line in caplog.messages if "signatures" in line]
    assert line == (
        f"The inputs of generation {made.generation_id} differ in the signatures of their links only; they count as the "
        "same files."
    )


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_retry_goes_on_with_a_running_generation(held: Task) -> None:
    first = held.submit()
    for enter in (held.retry, held.clear):
        again = enter()
        assert again.generation_id == first.generation_id
        assert not again.status.terminal
        assert held.store.value["max_tries"] == held.ti.max_tries
        assert held.store.value["try_number"] == held.ti.try_number
    assert held.posts == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_finished_generation_costs_one_status_request(task: Task, api: str) -> None:
    first = task.submit()
    # Its links may have expired at the next try; a status request brings new ones.
    assert task.store.value["result"] is None
    task.ti.retry()
    outcome = task.attach()
    assert outcome.generation.status is GenerationStatus.SUCCEEDED
    assert outcome.generation.generation_id == first.generation_id
    assert outcome.generation.url
    assert outcome.record.state is rec.RecordState.ENDED
    assert task.services.ledger.count("status") == 1
    assert task.services.ledger.count("result") == (1 if api in ("seedance2api", "fal") else 0)
    assert task.posts == 1


def test_a_refused_submission_after_a_clear_keeps_the_earlier_generation(task: Task) -> None:
    old = task.submit().generation_id
    task.services.fault("refuse", status=400, code="INVALID", message="not now")
    with pytest.raises(errors.SeedanceError):
        task.clear(on_clear="new")
    assert task.submitted == [old]
    assert task.clear(on_clear="reuse").generation_id == old
    assert task.submitted == [old]


@pytest.mark.parametrize("end", ["fail", "expire"])
@pytest.mark.parametrize("api", ["ark"])
def test_a_generation_that_failed_is_submitted_again(held: Task, end: str) -> None:
    first = held.submit().generation_id
    if end == "fail":
        held.services.fail(first, "no")
    else:
        held.services.expire(first)
    assert held.retry().generation_id != first
    assert len(held.submitted) == 2


@pytest.mark.parametrize("api", ["ark"])
def test_a_generation_that_a_person_cancelled_stays_cancelled(held: Task) -> None:
    first = held.submit().generation_id
    held.services.cancel_remote(first)
    with pytest.raises(errors.SeedanceGenerationCancelledError, match=first):
        held.retry()
    assert held.posts == 1
    held.clear()
    assert held.posts == 2


def test_a_recorded_end_is_not_read_again(task: Task) -> None:
    task.enter()
    task.store.change(state="ended", status="failed")
    task.retry()
    assert task.services.ledger.count("status") == 0
    assert task.posts == 2


def test_a_state_that_cannot_be_read_is_waited_for(task: Task) -> None:
    first = task.submit()
    troubles: list[tuple[str, dict[str, Any]]] = [
        *(("refuse", {"status": status}) for status in (401, 500)),
        ("rate_limit", {"retry_after": 1800}),
        *((kind, {}) for kind in ("gateway_error", "rubbish", "cut")),
    ]
    for kind, options in troubles:
        fault = task.services.fault(kind, on="status", times=None, **options)
        for enter in (task.retry, task.clear):
            again = enter(on_clear="new")
            assert (again.generation_id, again.status) == (first.generation_id, GenerationStatus.QUEUED)
        assert fault.used >= 2  # an earlier one keeps no try from asking
        fault.remove()
    assert task.posts == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_generation_the_service_forgot(task: Task) -> None:
    first = task.submit().generation_id
    task.services.forget(first)
    with pytest.raises(errors.SeedanceNotFoundError, match=first):
        task.retry()
    assert task.posts == 1
    task.store.change(submitted_at="2026-02-07T10:40:00Z")
    before = task.services.ledger.count("status")
    with pytest.raises(errors.SeedanceNotFoundError):
        task.retry()
    assert task.services.ledger.count("status") == before + 1  # an old id is read once
    task.clear()
    assert task.posts == 2


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_new_id_that_the_service_does_not_know_yet_is_read_again(task: Task) -> None:
    first = task.submit().generation_id
    for enter in (task.retry, task.clear):
        task.services.fault("refuse", on="status", status=404, times=3)
        assert enter().generation_id == first
    assert task.posts == 1


def test_a_changed_request_in_a_retry(task: Task) -> None:
    first = task.submit().generation_id
    with pytest.raises(errors.SeedanceRequestChangedError, match="duration") as caught:
        task.retry(video(PROMPT, duration=8))
    assert caught.value.generation_id == first
    assert task.store.value["generation_id"] == first  # the paid one stays on record
    assert task.submit().generation_id == first


def test_a_re_attachment_that_cannot_be_written_waits(held: Task, caplog: pytest.LogCaptureFixture) -> None:
    first = held.submit().generation_id
    held.store.break_down("set")
    assert held.clear().generation_id == first
    assert held.posts == 1
    assert "is away (set)). The generation is known all the same." in caplog.text


@pytest.fixture
def images(task: Task) -> Task:
    task.request = image(PROMPT, num_images=2)
    return task


@pytest.mark.parametrize("api", ["ark", "seedance2api"])
def test_images_are_recorded_whole_and_delivered_without_a_request(images: Task) -> None:
    first = images.submit()
    assert first.status is GenerationStatus.SUCCEEDED
    assert images.store.states == ["intent", "ended"]
    assert images.store.value["result"] == first.result()
    for enter in (images.retry, images.clear):
        assert enter().result() == first.result()
    assert len(images.services.ledger.requests) == 1


@pytest.mark.parametrize("api", ["ark"])
def test_images_whose_links_expired(images: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    first = images.submit()
    assert first.generation_id.startswith("local-")
    later = utc_now() + timedelta(hours=25)
    monkeypatch.setattr(lookup, "utc_now", lambda: later)
    with pytest.raises(errors.SeedanceOutputGoneError, match="was billed") as caught:
        images.retry()
    assert first.generation_id in caught.value.message
    assert images.posts == 1
    images.clear()
    assert images.posts == 2


@pytest.mark.parametrize("api", ["ark"])
def test_a_recorded_result_that_cannot_be_read(images: Task) -> None:
    images.enter()
    images.store.change(result={"urls": 5})
    with pytest.raises(errors.SeedanceRecordError) as caught:
        images.retry()
    assert caught.value.generation_id == images.store.value["generation_id"]
    assert images.posts == 1
