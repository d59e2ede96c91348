"""
Contradictions in the documents of the services, numbered: every documented shape is accepted.

Other rows are tested with the fields of each service (6, 17, 23, 29), in ``test_fates`` (12, 28), ``test_seedance2api``
(4, 9, 13, 31), ``test_settings`` (14), ``test_seedanceapi_v2`` (18), ``test_urls`` (22), ``test_base`` (25), and
``test_runbase`` (26, 27).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import (
    NOW,
    accepted,
    body_of,
    declined,
    drive,
    fixture,
    image,
    prepare,
    read,
    reply,
    submit,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Accepted, NotAccepted, Refused, Uncertain
from airflow_provider_seedance.apis.rate_limits import read_rate_limit
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import GenerationStatus as Status
from airflow_provider_seedance.generations import read_status_word

S2A = get_api("seedance2api")
V1 = get_api("seedanceapi-v1")
V2 = get_api("seedanceapi-v2")


def accepted_id(name: str, body: Any, request: Any = None) -> str:
    generation = accepted(name, reply(200, body), request)
    return generation.generation_id


def test_row_1_the_id_and_the_images_flat_or_under_data() -> None:
    nested = fixture("seedance2api_video_accepted")
    assert accepted_id("seedance2api", nested) == "task-uuid-67890"
    assert accepted_id("seedance2api", nested["data"]) == "task-uuid-67890"
    assert accepted_id("seedance2api", {"status": "accepted", "data": {"id": "x"}}) == "x"
    beside = {"status": "accepted", "task_id": "x", "data": {"status": "queued"}}
    assert accepted_id("seedance2api", beside) == "x"
    images = fixture("seedance2api_image_success")
    for body in (images, images["data"], {"status": "success", **images["data"]}):
        generation = accepted("seedance2api", reply(200, body), image())
        assert generation.urls == ("https://cdn.seedance2api.com/images/...",)
    lost = declined(Uncertain, "seedance2api", reply(200, {"status": "accepted", "data": {"note": "here"}}))
    assert '"note": "here"' in lost.message


def test_row_2_the_word_of_the_envelope_is_not_the_word_of_the_task() -> None:
    for word in ["success", "accepted"]:
        task = {"task_id": "t", "status": "processing"}
        assert read(S2A, {"status": word, "data": task}).status is Status.RUNNING
        assert read(S2A, {"status": word, "task_id": "t", "progress": 45}).status is Status.QUEUED
        assert read(S2A, task).status is Status.RUNNING


def test_row_3_the_result_stands_in_the_status_or_at_its_own_address() -> None:
    embedded = fixture("seedance2api_result_completed")
    assert read(S2A, embedded).urls == ("https://cdn.seedance2api.com/videos/...",)
    completed = {"task_id": "task-123-abc", "status": "completed"}
    for result in (embedded, {"status": "success", "data": embedded}):
        generation, steps = drive(
            S2A.status_flow("task-123-abc", "video", NOW), [reply(200, completed), reply(200, result)]
        )
        assert generation.urls == ("https://cdn.seedance2api.com/videos/...",)
        assert len(steps) == 2


def test_row_5_the_reason_of_a_failure_from_the_first_place_that_has_one() -> None:
    for why, found in [
        ({"error_message": "bad"}, ("bad", None)),
        ({"error": {"code": "X", "message": "bad"}}, ("bad", "X")),
        ({"error": "bad"}, ("bad", None)),
        ({"message": "bad"}, ("bad", None)),
        ({"detail": "bad"}, ("bad", None)),
        ({"error_message": "bad", "message": "other"}, ("bad", None)),
        ({"error": {"code": "X", "message": "bad"}, "error_message": "other"}, ("bad", "X")),
        ({"error": {"code": 5}}, (None, "5")),
        ({"error": "bad", "error_code": "X"}, ("bad", "X")),
        ({"message": "success"}, (None, None)),
        ({}, (None, None)),
    ]:
        task = {"task_id": "t", "status": "failed", **why}
        for body in (task, {"data": task}):
            generation = read(S2A, body)
            assert generation.status is Status.FAILED
            assert (generation.error_message, generation.error_code) == found
    # The source that is the task comes before the envelope.
    assert read(S2A, {"message": "other", "data": {**task, "detail": "bad"}}).error_message == "bad"
    assert read(S2A, {"message": "bad", "data": task}).error_message == "bad"


def test_rows_7_and_8_a_webhook_is_read_by_its_data_with_any_event() -> None:
    body = fixture("seedance2api_webhook_completed")
    for event in ("task.completed", "task.progress", "something.else"):
        generation = S2A.read_generation({**body, "event": event}, "t", media="video", now=NOW)
        assert generation.status is Status.SUCCEEDED


def test_row_10_the_wait_counts_on_a_refusal_only() -> None:
    values = {"limit": "1000", "remaining": "999", "reset": "1705315200", "retryafter": "3600"}
    headers = {f"x-ratelimit-{name}": value for name, value in values.items()}
    limit = read_rate_limit(headers, NOW)
    assert (limit.limit, limit.remaining, limit.retry_after) == (1000, 999, 3600)
    assert limit.reset_at.isoformat() == "2024-01-15T10:40:00+00:00"
    accepted("seedance2api", reply(200, fixture("seedance2api_video_accepted"), headers))
    assert declined(NotAccepted, "seedance2api", reply(429, None, headers)).retry_after == 3600
    for status in (400, 500, 503):
        outcome = submit("seedance2api", reply(status, fixture("seedance2api_error_400"), headers))
        assert not isinstance(outcome, Accepted)
        assert outcome.error.retry_after is None


def test_row_11_the_status_address_is_built_here() -> None:
    body = fixture("seedance2api_video_accepted")
    body["data"]["check_status_url"] = "https://elsewhere.example/steal"
    assert S2A.status_call(accepted_id("seedance2api", body)).path == "/tasks/task-uuid-67890"


def test_row_15_the_other_vendors_sdk_is_not_used() -> None:
    project = Path(__file__).parents[2]
    assert "seedance-sdk" not in (project / "pyproject.toml").read_text()
    for source in (project / "airflow_provider_seedance").rglob("*.py"):
        assert "import seedance\n" not in source.read_text(encoding="utf-8")


def test_row_16_durations_as_numbers_or_text_are_sent_in_the_documented_form() -> None:
    for name, seconds, sent in [
        ("seedanceapi-v1", 8, "8"),
        ("runbase", 8, "8"),
        ("seedanceapi-v2", 5, 5),
        ("seedance2api", 15, 15),
        ("ark", 5, 5),
    ]:
        for given in (seconds, str(seconds), float(seconds), f" {seconds}.0 "):
            body = body_of(name, video(duration=given))
            found = body.get("input", body)["duration"]
            assert found == sent
            assert type(found) is type(sent)


@pytest.mark.parametrize("name", ["seedance2api", "seedanceapi-v2", "runbase", "ark"])
def test_row_19_unknown_models_pass_with_one_warning(name: str) -> None:
    prepared = prepare(name, video(model="seedance-2-mini"))
    assert len(prepared.warnings) == 1
    assert "'seedance-2-mini'" in prepared.warnings[0]
    assert body_of(name, video(model="seedance-2-mini"))["model"] == "seedance-2-mini"


def test_row_20_codes_as_numbers_or_words_and_errors_with_200() -> None:
    named = {"code": "INVALID_API_KEY", "message": "why"}
    for body, cls, code in [
        ({"code": "INVALID_PROMPT", "message": "why"}, errors.SeedanceRequestError, "INVALID_PROMPT"),
        ({"code": 402, "message": "why"}, errors.SeedanceInsufficientCreditsError, "402"),
        ({"code": "402", "message": "why"}, errors.SeedanceInsufficientCreditsError, "402"),
        ({"error": "why"}, errors.SeedanceRequestError, None),
        ({"error": named}, errors.SeedanceAuthenticationError, "INVALID_API_KEY"),
        ({"code": 200, "error": {"message": "why"}}, errors.SeedanceRequestError, None),
    ]:
        for name in ("seedanceapi-v1", "seedanceapi-v2"):
            error = declined(Refused, name, reply(200, body))
            assert (type(error), error.vendor_code) == (cls, code)
            assert "why" in error.message
    # Codes that are no errors.
    for code in [200, 0, "200", "0", "success", "OK", ""]:
        assert accepted_id("seedanceapi-v1", {"code": code, "data": {"task_id": "t"}}) == "t"
        declined(Uncertain, "seedanceapi-v1", reply(200, {"code": code, "message": "success", "data": {}}))


def test_row_21_words_of_all_vendors_in_any_case() -> None:
    for words, status in [
        ("success succeeded completed complete done", Status.SUCCEEDED),
        ("failed failure fail error", Status.FAILED),
        ("cancelled canceled aborted", Status.CANCELLED),
        ("expired timeout", Status.EXPIRED),
        ("queued pending", Status.QUEUED),
        ("running processing in_progress", Status.RUNNING),
    ]:
        for word in words.split():
            for spelling in (word, word.upper(), word.title(), f" {word} "):
                assert read_status_word(spelling) == (status, True)


def test_row_21_other_words_count_as_running() -> None:
    for word in ["rendering", "完了", "0", ""]:
        assert read_status_word(word) == (Status.RUNNING, False)
        if word:
            generation = read(V1, {"data": {"task_id": "t", "status": word}})
            found = (generation.status, generation.documented, generation.word)
            assert found == (Status.RUNNING, False, word)


def test_row_24_the_id_in_a_callback() -> None:
    for body in [{"data": {"task_id": "t"}}, {"task_id": "t"}, {"id": "t"}, {"data": {"id": "t"}}]:
        for api in (V1, V2):
            assert api.find_id(body) == "t"


def test_row_30_ids_are_opaque() -> None:
    for generation_id in ("seed15abc123def456pro", "a/b", "ü", "x" * 500, "../../etc"):
        assert accepted_id("seedanceapi-v1", {"data": {"task_id": generation_id}}) == generation_id
        assert V1.status_call(generation_id).query == (("task_id", generation_id),)
        assert "/" not in S2A.status_call(generation_id).path.removeprefix("/tasks/")
