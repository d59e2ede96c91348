"""seedance2api.com against its page."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from helpers import (
    NOW,
    accepted,
    body_of,
    call_for,
    calls,
    declined,
    drive,
    failed_read,
    fixture,
    image,
    pauses,
    prepare,
    read,
    refused,
    reply,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import (
    MAX_WORD_CHARS,
    HttpReply,
    NotAccepted,
    Refused,
    TransportFailure,
)
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import Estimate
from airflow_provider_seedance.generations import GenerationStatus as Status

NAME = "seedance2api"
API = get_api(NAME)


# ---------------------------------------------------------------------- requests


def test_the_requests_of_the_page_are_sent_as_they_stand_there() -> None:
    for make, path in [(video, "/seedance/generate"), (image, "/seedream/generate")]:
        sample = fixture(f"seedance2api_{make.__name__}_request")
        call = call_for(NAME, make(**sample))
        assert (call.method, call.path, call.json) == ("POST", path, sample)


def test_every_field_of_a_video_goes_to_its_documented_name() -> None:
    request = video(
        model="seedance-2.0",
        duration="30",
        resolution="4k",
        fps="60",
        images=["https://example.com/a.png"],
        extra_params={"beta": [1]},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb") == {
        "prompt": "A lamp",
        "model": "seedance-2.0",
        "duration": 30,
        "resolution": "4k",
        "fps": 60,
        "image_input": "https://example.com/a.png",
        "webhook_url": "https://example.com/cb",
        "beta": [1],
    }


def test_every_field_of_an_image_goes_to_its_documented_name() -> None:
    request = image(
        model="seedream-5.0",
        resolution="1024x1024",
        quality="standard",
        num_images="4",
        seed="42",
        style="oil_painting",
        extra_params={"beta": None},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb") == {
        "prompt": "A lamp",
        "model": "seedream-5.0",
        "resolution": "1024x1024",
        "quality": "standard",
        "num_images": 4,
        "seed": 42,
        "style": "oil_painting",
        "webhook_url": "https://example.com/cb",
        "beta": None,
    }


def test_only_what_is_required_is_filled_in_and_said() -> None:
    prepared = prepare(NAME, video())
    assert API.submit_call(prepared.request).json == {
        "prompt": "A lamp",
        "model": "seedance-1.5-pro",
        "duration": 5,
    }
    assert prepared.defaults == (
        "model='seedance-1.5-pro' (default of seedance2api)",
        "duration=5 (default of seedance2api)",
    )
    assert body_of(NAME, image()) == {"prompt": "A lamp", "model": "seedream-4.5"}


def test_documented_video_values_pass_without_a_word() -> None:
    for name, value in (
        *[("duration", seconds) for seconds in (5, 6, 15, 29, 30, "5", "30", 15.0)],
        *[("resolution", value) for value in ("720p", "1080p", "4k")],
        *[("fps", value) for value in (24, 30, 60, "24")],
        *[("model", value) for value in ("seedance-1.0", "seedance-1.5-pro", "seedance-2.0")],
        ("prompt", "x" * 300),
        ("prompt", "🎬" * 300),
        ("prompt", "山" * 300),
    ):
        assert prepare(NAME, video(**{name: value})).warnings == (), (name, value)


def test_other_video_values_are_refused_naming_argument_value_and_range() -> None:
    for name, value, shown, takes in [
        ("duration", 4, "4", "a whole number from 5 to 30 (seconds)"),
        ("duration", 31, "31", "from 5 to 30"),
        ("duration", 7.5, "7.5", "whole number"),
        ("duration", True, "True", "whole number"),
        ("duration", "soon", "'soon'", "from 5 to 30"),
        ("duration", "nan", "nan", "from 5 to 30"),
        ("resolution", "480p", "'480p'", "720p, 1080p or 4k"),
        ("fps", 25, "25", "24, 30 or 60"),
        ("prompt", "🎬" * 301, "(301 characters)", "at most 300 characters"),
        ("prompt", "山" * 301, "(301 characters)", "at most 300 characters"),
        ("prompt", "", "empty", "prompt"),
        ("prompt", " \n", "empty", "prompt"),
        ("prompt", None, "None", "prompt must be text"),
        ("prompt", 5, "5", "prompt must be text"),
        ("model", 5, "5", "a model name such as seedance-1.0"),
        ("images", ["https://a.example/1", "https://a.example/2"], "2 images were given", "at most 1 image"),
        ("images", "http://a.example/1.png", "http://a.example/1.png", "https URLs"),
        ("aspect_ratio", "16:9", "'16:9'", "takes duration, fps, images, model, prompt, resolution"),
        ("generate_audio", True, "True", "is not an argument of seedance2api"),
        ("fixed_lens", False, "False", "is not an argument of seedance2api"),
        ("seed", 42, "42", "is not an argument of seedance2api"),
        ("extra_params", [1], "[1]", "extra_params must be a dict"),
    ]:
        refused(NAME, video(**{name: value}), name, shown, takes)


def test_other_image_values_are_refused() -> None:
    for name, value, takes in [
        ("num_images", 0, "from 1 to 4"),
        ("num_images", 5, "from 1 to 4"),
        ("quality", "ultra", "standard or high"),
        ("resolution", "1080p", "1024x1024, 2048x2048 or 4k"),
        ("seed", "x", "a whole number"),
        ("style", 5, "text"),
        ("images", "https://a.example/1.png", "is not an argument of seedance2api"),
        ("prompt", "x" * 301, "at most 300 characters"),
    ]:
        refused(NAME, image(**{name: value}), name, takes)


def test_models_and_styles_are_open_lists() -> None:
    assert "seedance-3.0" in prepare(NAME, video(model="seedance-3.0")).warnings[0]
    assert body_of(NAME, video(model="seedance-3.0"))["model"] == "seedance-3.0"
    for model in ("seedream-3.0", "seedream-4.0", "seedream-4.5", "seedream-5.0"):
        assert prepare(NAME, image(model=model)).warnings == ()
    assert body_of(NAME, image(style="anything"))["style"] == "anything"
    # A seed of many digits keeps every one of them.
    assert body_of(NAME, image(seed="12345678901234567891"))["seed"] == 12345678901234567891


# ---------------------------------------------------------------------- the answer to a submission


def test_the_accepted_video_of_the_page() -> None:
    generation = accepted(
        NAME, reply(200, fixture("seedance2api_video_accepted")), video(duration=15, resolution="1080p")
    )
    assert generation.generation_id == "task-uuid-67890"
    assert generation.status is Status.QUEUED
    assert generation.estimated_wait == 45
    # From the request, where the service does not repeat it.
    assert (generation.model, generation.duration, generation.resolution) == ("seedance-1.5-pro", 15, "1080p")


def test_the_images_of_the_page_are_terminal_at_once() -> None:
    generation = accepted(NAME, reply(200, fixture("seedance2api_image_success")), image())
    assert generation.generation_id == "task-uuid-12345"
    assert generation.media == "image"
    assert generation.status is Status.SUCCEEDED
    assert generation.urls == ("https://cdn.seedance2api.com/images/...",)
    assert (generation.model, generation.resolution) == ("seedream-4.5", "4k")
    assert generation.usage == {"processing_seconds": 2.5}
    assert generation.result()["outputs"] == [
        {"id": "img-uuid-001", "format": "png", "width": 2048, "height": 2048, "size_bytes": 4_526_048}
    ]


def test_images_without_a_url_have_no_details_and_those_with_one_have_some() -> None:
    url = "https://a.example/1.png"
    images = [{"id": "lost"}, {"url": url}, {"url": url, "width": "9"}]
    body = {"status": "success", "data": {"task_id": "t", "images": images}}
    generation = accepted(NAME, reply(200, body), image())
    assert len(generation.urls) == len(generation.outputs) == 2
    assert [output["width"] for output in generation.outputs] == [None, 9]


def test_details_of_images_are_redacted_and_short() -> None:
    images = [{"url": "https://a.example/1.png", "id": "s3cret " + 2000 * "x"}]
    answer = reply(200, {"data": {"task_id": "t", "images": images}})
    answer = replace(answer, redact=lambda text: text.replace("s3cret", "***"))
    (output,) = accepted(NAME, answer, image()).outputs
    assert output["id"].startswith("*** xxx")
    assert len(output["id"]) <= MAX_WORD_CHARS + 1


def test_the_error_samples_of_the_page() -> None:
    limit = " (field prompt, constraint max_length, limit 300)"
    for status, cls, code, details in [
        (400, errors.SeedanceRequestError, "INVALID_PROMPT", limit),
        (401, errors.SeedanceAuthenticationError, "INVALID_API_KEY", "."),
    ]:
        body = fixture(f"seedance2api_error_{status}")
        error = declined(Refused, NAME, reply(status, body))
        assert (type(error), error.http_status, error.vendor_code) == (cls, status, code)
        assert body["error"]["message"] + details in error.message
        assert (error.method, error.path) == ("POST", "/seedance/generate")


def test_outputs_are_deleted_after_30_days() -> None:
    result = fixture("seedance2api_result_completed")
    generation = read(API, result, result["task_id"])
    assert generation.expires_at == generation.completed_at + timedelta(days=30)
    images = accepted(NAME, reply(200, fixture("seedance2api_image_success")), image())
    assert images.expires_at == NOW + timedelta(days=30)


def test_the_error_table_of_the_page() -> None:
    # Row 4 of the contradictions: the HTTP status decides, and the code is free text.
    for status, code, fate, cls in [
        (400, "INVALID_REQUEST", Refused, errors.SeedanceRequestError),
        (400, "NEVER_HEARD_OF", Refused, errors.SeedanceRequestError),
        (401, "UNAUTHORIZED", Refused, errors.SeedanceAuthenticationError),
        (401, "NEVER_HEARD_OF", Refused, errors.SeedanceAuthenticationError),
        (403, "FORBIDDEN", Refused, errors.SeedanceForbiddenError),
        (429, "RATE_LIMITED", NotAccepted, errors.SeedanceRateLimitError),
        (503, "SERVICE_UNAVAILABLE", NotAccepted, errors.SeedanceServerError),
    ]:
        body = {"status": "error", "error": {"code": code, "message": "m"}}
        error = declined(fate, NAME, reply(status, body))
        assert (type(error), error.vendor_code) == (cls, code)


# ---------------------------------------------------------------------- status and result


def test_the_processing_task_of_the_page() -> None:
    generation = read(API, fixture("seedance2api_task_processing"), "task-123-abc")
    assert generation.status is Status.RUNNING
    assert generation.progress == 45
    assert generation.result()["created_at"] == "2024-01-15T10:30:00+00:00"
    assert (generation.word, generation.documented) == ("processing", True)
    for word, found in [("queued", Status.QUEUED), ("failed", Status.FAILED)]:
        generation = read(API, {"task_id": "t", "status": word})
        assert (generation.status, generation.documented) == (found, True)


def test_status_and_result_calls() -> None:
    assert API.status_call("task-1").path == "/tasks/task-1"
    assert API.status_call("a/b?c d").path == "/tasks/a%2Fb%3Fc%20d"
    assert API.result_call("a/b").path == "/results/a%2Fb"
    assert API.probe_call().method == "GET"


def completed(**more: Any) -> dict[str, Any]:
    return {**fixture("seedance2api_task_processing"), "status": "completed", "progress": 100, **more}


def status(*answers: HttpReply | TransportFailure, media: Any = "video") -> tuple[Any, list[Any]]:
    return drive(API.status_flow("task-123-abc", media, NOW), answers)


def final(*answers: HttpReply) -> tuple[Any, list[Any]]:
    return drive(API.final_status_flow("task-123-abc", "video", NOW), answers)


RESULT = reply(200, fixture("seedance2api_result_completed"))


def test_a_completed_task_costs_one_status_and_one_result() -> None:
    generation, steps = status(reply(200, completed()), RESULT)
    assert [call.path for call in calls(steps)] == ["/tasks/task-123-abc", "/results/task-123-abc"]
    result = generation.result()
    assert result["status"] == "succeeded"
    assert result["url"] == "https://cdn.seedance2api.com/videos/..."
    assert (result["duration"], result["resolution"]) == (15, "1080p")
    assert result["created_at"] == "2024-01-15T10:30:00+00:00"
    assert result["completed_at"] == "2024-01-15T10:35:00+00:00"


def test_the_result_is_requested_again_until_it_is_available() -> None:
    missing = reply(404, {"status": "error", "error": {"code": "NOT_FOUND", "message": "m"}})
    empty = reply(200, {"task_id": "task-123-abc", "status": "completed", "result": {}})
    generation, steps = status(reply(200, completed()), missing, missing, empty, RESULT)
    assert generation.urls == ("https://cdn.seedance2api.com/videos/...",)
    assert pauses(steps) == [1.0, 2.0, 4.0]


def test_a_result_that_never_comes_ends_as_succeeded_without_output_with_both_bodies() -> None:
    for broken in [
        reply(404, {"status": "error", "error": {"code": "X", "message": "gone"}}),
        reply(200, {"status": "completed", "marker": "gone"}),
    ]:
        generation, _ = status(reply(200, completed(mark="status-body")), *[broken] * 4)
        assert generation.status is Status.SUCCEEDED
        assert generation.output_gone(NOW)
        assert "gone" in generation.error_message
        assert "status-body" in generation.error_message


def test_a_result_that_cannot_be_read_is_not_a_lost_one() -> None:
    # One request, not several: a quota of ten an hour would not outlast an outage otherwise.
    error = failed_read(NAME, reply(200, completed(mark="status-body")), reply(502, b"bad"))
    assert type(error) is errors.SeedanceServerError
    assert "502" in error.message
    assert "status-body" in error.message
    for answer, cls in [
        (reply(429), errors.SeedanceRateLimitError),
        (TransportFailure("broke", sent=True), errors.SeedanceConnectionError),
    ]:
        assert type(failed_read(NAME, reply(200, completed()), answer)) is cls


def test_the_result_of_an_image_task() -> None:
    images = [{"url": "https://cdn.example.com/1.png"}, {"url": "https://cdn.example.com/2.png"}]
    for body in ({"result": {"images": images}}, {"images": images}):
        result = reply(200, {"status": "completed", **body})
        generation, _ = status(reply(200, completed()), result, media="image")
        assert generation.urls == ("https://cdn.example.com/1.png", "https://cdn.example.com/2.png")
        assert generation.media == "image"


def test_the_webhook_of_the_page_is_read_like_a_status() -> None:
    body = fixture("seedance2api_webhook_completed")
    assert API.find_id(body) == "task-uuid-12345"
    generation = API.read_generation(body, "task-uuid-12345", media="video", now=NOW)
    assert generation.status is Status.SUCCEEDED
    assert generation.urls == ("https://cdn.seedance2api.com/...",)
    assert generation.model == "seedance-1.5-pro"


def test_an_error_envelope_with_200_is_not_a_failed_generation() -> None:
    for more in ({"error": {"code": "UNAUTHORIZED", "message": "m"}}, {"error": "m"}, {}):
        failed_read(NAME, reply(200, {"status": "error", **more}))


def test_nothing_is_published_about_prices_or_cancelling() -> None:
    assert API.price(video()) == Estimate()
    assert not API.can_cancel
    assert not API.can_look_up
    assert API.auth_headers == ("authorization", "x-api-key")
    with pytest.raises(errors.SeedanceConfigurationError, match="cannot cancel"):
        API.cancel_call("t")


# ---------------------------------------------------------------------- after a callback


def test_after_a_callback_only_the_result_is_requested() -> None:
    generation, steps = final(RESULT)
    assert [call.path for call in calls(steps)] == ["/results/task-123-abc"]
    assert generation.url == "https://cdn.seedance2api.com/videos/..."


def test_without_a_result_the_status_is_requested() -> None:
    for first in [
        reply(404, {"error": {"code": "not_found", "message": "no result"}}),
        reply(400, {"error": {"code": "not_ready", "message": "still running"}}),
        reply(500, b"oops"),
        reply(200, {"task_id": "task-123-abc", "status": "completed", "result": {}}),
        reply(200, {"task_id": "task-123-abc", "status": "processing"}),
    ]:
        generation, steps = final(first, reply(200, {"task_id": "task-123-abc", "status": "processing"}))
        assert [call.path for call in calls(steps)] == ["/results/task-123-abc", "/tasks/task-123-abc"]
        assert generation.status is Status.RUNNING


def test_a_rate_limit_on_the_result_sends_no_status_request() -> None:
    with pytest.raises(errors.SeedanceRateLimitError):
        final(reply(429, {"error": {"message": "slow down"}}))
