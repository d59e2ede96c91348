"""Requests to BytePlus ModelArk and Volcengine Ark, and their replies, against part 3 of the collected facts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
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
    fixture,
    image,
    prepare,
    read,
    reply,
    submit,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import HttpReply, NotAccepted, Refused, Uncertain
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.generations import GenerationStatus as Status
from airflow_provider_seedance.urls import MediaInput

NAME = "ark"
API = get_api(NAME)

A, B, C = (f"https://example.com/{name}.png" for name in "abc")
TEXT = {"type": "text", "text": "A lamp"}


def refusal(status: int, code: str, message: str = "why") -> HttpReply:
    return reply(status, {"error": {"code": code, "message": message, "param": "", "type": "t"}})


# ---------------------------------------------------------------------- video requests


def test_the_smallest_video() -> None:
    call = call_for(NAME, video())
    assert (call.method, call.path) == ("POST", "/contents/generations/tasks")
    assert call.json == {"model": "dreamina-seedance-2-0-260128", "content": [TEXT]}


def test_every_field_goes_to_its_documented_name_and_type() -> None:
    request = video(
        model="ep-20260101-abcde",
        resolution="1080p",
        aspect_ratio="adaptive",
        duration="5",
        seed="-1",
        generate_audio="false",
        fixed_lens="true",
        watermark="true",
        return_last_frame=True,
        draft=False,
        service_tier="flex",
        extra_params={"frames": 29, "content_extra": None},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb", correlation="corr") == {
        "model": "ep-20260101-abcde",
        "content": [TEXT],
        "resolution": "1080p",
        "ratio": "adaptive",
        "duration": 5,
        "seed": -1,
        "generate_audio": False,
        "camera_fixed": True,
        "callback_url": "https://example.com/cb",
        "safety_identifier": "corr",
        "watermark": True,
        "return_last_frame": True,
        "draft": False,
        "service_tier": "flex",
        "frames": 29,
        "content_extra": None,
    }


def part(url: str, role: str) -> dict[str, Any]:
    """Return an input as the service documents it."""
    kind = {"reference_video": "video_url", "reference_audio": "audio_url"}.get(role, "image_url")
    return {"type": kind, kind: {"url": url}, "role": role}


def test_inputs_become_content_items_with_roles() -> None:
    data, picture, sound, film = (
        "data:image/png;base64,iVBORw0KGgo=",
        "asset://picture-1",
        "asset://sound-1",
        "https://example.com/v.mp4",
    )
    for images, parts in [
        ([A], [part(A, "first_frame")]),
        ([data], [part(data, "first_frame")]),
        ([picture], [part(picture, "first_frame")]),
        ([A, B], [part(A, "first_frame"), part(B, "last_frame")]),
        ([A, B, C], [part(url, "reference_image") for url in (A, B, C)]),
        ([{"url": A, "role": "last_frame"}, B], [part(A, "last_frame"), part(B, "first_frame")]),
        ([{"url": A, "role": "reference_image"}], [part(A, "reference_image")]),
        *[
            ([A, {"url": url, "role": role}], [part(A, "reference_image"), part(url, role)])
            for url, role in [(film, "reference_video"), (sound, "reference_audio")]
        ],
    ]:
        assert body_of(NAME, video(images=images))["content"] == [TEXT, *parts]
    # The prompt may be left out beside inputs.
    assert body_of(NAME, video("", images=A))["content"] == [part(A, "first_frame")]
    draft = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}
    assert body_of(NAME, video("", images=[{"draft_task": "cgt-1"}]))["content"] == [draft]
    assert video(images=A).images == (MediaInput(url=A),)


def test_a_safety_identifier_of_the_user_stays_and_rules_out_the_look_up() -> None:
    request = video(extra_params={"safety_identifier": "user-5"})
    assert not API.correlates(request)
    assert body_of(NAME, request, correlation="corr")["safety_identifier"] == "user-5"
    assert API.correlates(video())


# ---------------------------------------------------------------------- image requests


def test_the_smallest_image() -> None:
    call = call_for(NAME, image(), image_timeout=600)
    assert (call.method, call.path, call.timeout) == ("POST", "/images/generations", 600)
    assert call.json == {"model": "seedream-4-5-251128", "prompt": "A lamp"}
    assert call_for(NAME, video(), image_timeout=600).timeout is None


def test_every_field_of_an_image_goes_to_its_documented_name() -> None:
    request = image(
        model="ep-20260101-abcde",
        resolution="4k",
        num_images="3",
        seed=7,
        images=[A, B],
        watermark="false",
        output_format="png",
        extra_params={"size2": "x"},
    )
    assert body_of(NAME, request) == {
        "model": "ep-20260101-abcde",
        "prompt": "A lamp",
        "image": [A, B],
        "size": "4K",
        "seed": 7,
        "sequential_image_generation": "auto",
        "sequential_image_generation_options": {"max_images": 3},
        "watermark": False,
        "output_format": "png",
        "size2": "x",
    }
    assert body_of(NAME, image(images=A))["image"] == A
    assert set(body_of(NAME, image(num_images=1))) == {"model", "prompt"}


def test_images_carry_neither_callback_nor_correlation() -> None:
    body = body_of(NAME, image(), callback_url="https://example.com/cb", correlation="corr")
    assert set(body) == {"model", "prompt"}
    assert not API.correlates(image())


# ---------------------------------------------------------------------- replies


def test_a_created_task() -> None:
    generation = accepted(NAME, reply(200, fixture("ark_created")), video(duration=5, resolution="720p"))
    assert generation.generation_id == "cgt-20260207103000-abcde"
    assert generation.status is Status.QUEUED
    assert (generation.model, generation.duration) == ("dreamina-seedance-2-0-260128", 5)


def test_every_status_of_a_task() -> None:
    for word in ["queued", "running", "succeeded", "failed", "cancelled", "expired"]:
        generation = read(API, fixture(f"ark_task_{word}"), "cgt-20260207103000-abcde")
        assert generation.status.value == word
        assert generation.documented
        assert bool(generation.urls) == (word == "succeeded")
        assert (generation.completed_at is not None) == (word not in ("queued", "running"))
        # Only what is queued by the service's own word may be cancelled.
        assert API.may_cancel(generation) == (word == "queued")
    assert not API.may_cancel(API.read_generation({"id": "g"}, "g", media="video", now=NOW))


def test_a_finished_task() -> None:
    task = fixture("ark_task_succeeded")
    result = read(API, task, task["id"]).result()
    assert result["urls"] == [task["content"]["video_url"], task["content"]["last_frame_url"]]
    assert result["url"] == task["content"]["video_url"]
    assert (result["model"], result["duration"], result["resolution"]) == (task["model"], 5, "720p")
    assert result["created_at"] == "2026-02-07T10:30:00+00:00"
    assert result["completed_at"] == "2026-02-07T10:35:00+00:00"
    assert result["expires_at"] == "2026-02-08T10:35:00+00:00"
    assert result["last_frame_url"] == task["content"]["last_frame_url"]
    assert result["usage"] == {"output_tokens": 108900}
    assert (result["seed"], result["aspect_ratio"], result["fps"]) == (42, "16:9", 24)
    assert Generation.from_result(result).result() == result


def test_a_failed_task_is_a_generation_not_a_failed_call() -> None:
    generation = read(API, fixture("ark_task_failed"))
    assert generation.status is Status.FAILED
    assert generation.error_code == "OutputVideoSensitiveContentDetected"
    assert "sensitive information" in generation.error_message


def test_a_finished_task_without_content_has_lost_its_output() -> None:
    generation = read(API, {**fixture("ark_task_succeeded"), "content": None})
    assert generation.status is Status.SUCCEEDED
    assert generation.output_gone(NOW)


def test_times_at_the_end_of_the_calendar_do_no_harm() -> None:
    generation = read(API, {**fixture("ark_task_succeeded"), "updated_at": "9999-12-31T23:59:59Z"})
    assert generation.expires_at is None


def test_images_are_answered_at_once_and_get_an_id_of_their_own() -> None:
    body = fixture("ark_image_success")
    generation = accepted(NAME, reply(200, body), image())
    assert generation.generation_id.startswith("local-")
    assert generation.status is Status.SUCCEEDED
    assert generation.urls == (body["data"][0]["url"],)
    assert generation.resolution == "2048x2048"
    assert generation.created_at == datetime(2026, 2, 7, 10, 30, tzinfo=UTC)
    assert generation.expires_at == generation.created_at + timedelta(hours=24)
    again = accepted(NAME, reply(200, body), image())
    assert again.generation_id == generation.generation_id
    other = accepted(NAME, reply(200, {**body, "created": 1770460201}), image())
    assert other.generation_id != generation.generation_id


def test_both_names_of_the_time_are_read() -> None:
    for times in [
        {"created": 1770460200},
        {"created_at": 1770460200},
        {"created_at": None, "created": 1770460200},
    ]:
        body = {"data": [{"url": "https://a.example/1"}], **times}
        generation = API.read_generation(body, "g", media="image", now=NOW)
        assert generation.created_at == datetime(2026, 2, 7, 10, 30, tzinfo=UTC)


def test_one_image_of_a_group_can_fail_alone() -> None:
    generation = accepted(NAME, reply(200, fixture("ark_image_partial")), image(num_images=2))
    assert generation.status is Status.SUCCEEDED
    assert generation.urls == ("https://ark-content.example.com/image/1.jpeg",)
    assert generation.error_message is not None
    assert generation.error_message.startswith("image 2 of 2 failed: ")
    assert generation.error_message in generation.summary()
    assert generation.result()["error_message"] == generation.error_message
    assert Generation.from_result(generation.result()).error_message == generation.error_message
    assert generation.usage is not None
    assert generation.usage["generated_images"] == 1
    # Failed images are not billed.
    prepared = prepare(NAME, image(num_images=2))
    assert prepared.price.cost_usd == 0.08
    reread = API.read_generation(fixture("ark_image_partial"), "local-1", media="image", now=NOW)
    assert reread.with_defaults(prepared.result_defaults.as_dict()).cost_usd == 0.04


def test_a_group_of_which_no_image_came_out_is_refused() -> None:
    body = fixture("ark_image_partial")
    body["data"] = body["data"][1:] * 2
    error = declined(Refused, NAME, reply(200, body), image(num_images=2))
    assert type(error) is errors.SeedanceModerationError
    body["data"] = [{"error": {"code": "Odd", "message": "why"}}]
    assert "why" in declined(Refused, NAME, reply(200, body), image()).message
    # No images and no error are no refusal.
    declined(Uncertain, NAME, reply(200, {**body, "data": []}), image())


def test_images_without_a_url_come_as_data() -> None:
    for data, more, kind in [
        ("/9j/4AAQ", {}, "jpeg"),
        ("/9j/4AAQ", {"output_format": "png"}, "png"),
        ("iVBORw0KGgoAAAA", {}, "png"),
    ]:
        body = {"model": "m", "created": 1, "data": [{"b64_json": data, "size": "1x1", **more}]}
        assert accepted(NAME, reply(200, body), image()).urls == (f"data:image/{kind};base64,{data}",)


# ---------------------------------------------------------------------- errors


def test_every_documented_error_code() -> None:
    for status, code, fate, cls in [
        (400, "InvalidParameter", Refused, errors.SeedanceRequestError),
        (400, "InvalidParameter.TaskTypeConstraint", Refused, errors.SeedanceRequestError),
        (400, "InvalidParameter.TaskTypeMismatch", Refused, errors.SeedanceRequestError),
        (400, "MissingParameter", Refused, errors.SeedanceRequestError),
        (401, "AuthenticationError", Refused, errors.SeedanceAuthenticationError),
        (403, "AccessDenied", Refused, errors.SeedanceForbiddenError),
        (403, "AccountOverdueError", Refused, errors.SeedanceInsufficientCreditsError),
        (403, "OperationDenied.ServiceOverdue", Refused, errors.SeedanceInsufficientCreditsError),
        (403, "OperationDenied.Other", Refused, errors.SeedanceForbiddenError),
        (400, "InputTextRiskDetection", Refused, errors.SeedanceModerationError),
        (404, "UnsupportedModel", Refused, errors.SeedanceRequestError),
        (404, "InvalidEndpointOrModel.NotFound", Refused, errors.SeedanceRequestError),
        (404, "ModelNotOpen", Refused, errors.SeedanceForbiddenError),
        (400, "ModelNotOpen", Refused, errors.SeedanceForbiddenError),
        (429, "QuotaExceeded", NotAccepted, errors.SeedanceRateLimitError),
        (429, "SetLimitExceeded", Refused, errors.SeedanceForbiddenError),
        (429, "RateLimitExceeded.EndpointRPMExceeded", NotAccepted, errors.SeedanceRateLimitError),
        (429, "ModelAccountRpmRateLimitExceeded", NotAccepted, errors.SeedanceRateLimitError),
        (429, "ServerOverloaded", NotAccepted, errors.SeedanceRateLimitError),
        (429, "RequestBurstTooFast", NotAccepted, errors.SeedanceRateLimitError),
        (500, "InternalServiceError", Uncertain, errors.SeedanceServerError),
        (503, "ServerOverloaded", NotAccepted, errors.SeedanceServerError),
        *[
            (400, f"{way}{kind}SensitiveContentDetected{more}", Refused, errors.SeedanceModerationError)
            for way in ("Input", "Output")
            for kind in ("Text", "Image", "Video", "Audio")
            for more in ("", ".PolicyViolation", ".PrivacyInformation")
        ],
    ]:
        error = declined(fate, NAME, refusal(status, code))
        assert (type(error), error.vendor_code, error.http_status) == (cls, code, status)


def test_the_message_tells_which_exceeded_quota_returns() -> None:
    for message in (
        "Your account [1] has exhausted its free trial quota for the [m] model.",
        "当前账号 1 对 m 模型的免费试用额度已消耗完毕",
    ):
        error = declined(Refused, NAME, refusal(429, "QuotaExceeded", message))
        assert type(error) is errors.SeedanceForbiddenError
        assert "activate the model" in error.message
    for message in (
        "The number of queued tasks has reached the limit.",
        "The plan is used up until 2026-11-28 10:00.",
    ):
        error = declined(NotAccepted, NAME, refusal(429, "QuotaExceeded", message))
        assert type(error) is errors.SeedanceRateLimitError


def test_the_end_of_a_quota_is_read_from_the_message() -> None:
    # As public recordings of the service have it.
    plan = (
        "You have exceeded the {} usage quota. It will reset at {} +0800 CST. We recommend upgrading your plan for more "
        "quota, or waiting for the reset. Request id: 021"
    )
    reset_at = (NOW + timedelta(hours=80)).astimezone(timezone(timedelta(hours=8)))
    for message, wait in [
        *[(plan.format(window, f"{reset_at:%Y-%m-%d %H:%M:%S}"), 80 * 3600) for window in ("5-hour", "weekly", "monthly")],
        (plan.format("weekly", f"{reset_at:%Y-%m-%d %H:%M}"), 80 * 3600 - reset_at.second),
        (plan.format("weekly", "2020-01-01 00:00:00"), 0),
        (plan.format("weekly", "2026-02-31 00:00:00"), None),
        ("The plan is used up until 2026-02-07T11:40:00Z.", 3600),
        ("The plan is used up until 2026-02-07 19:40:00+08:00.", 3600),
    ]:  # fmt: skip
        for code in ("AccountQuotaExceeded", "QuotaExceeded"):
            error = declined(NotAccepted, NAME, refusal(429, code, message))
            assert (type(error), error.retry_after) == (errors.SeedanceRateLimitError, wait), message


def test_a_404_about_the_model_does_not_say_that_a_generation_is_unknown() -> None:
    for code, cls in [
        ("UnsupportedModel", errors.SeedanceRequestError),
        ("ResourceNotFound", errors.SeedanceNotFoundError),
    ]:
        assert type(API.error_for(refusal(404, code), API.status_call("cgt-1"), now=NOW)) is cls


def test_a_paused_model_says_who_has_to_resume_it() -> None:
    error = declined(Refused, NAME, refusal(429, "SetLimitExceeded", "paused"))
    assert "Safe Experience Mode" in error.message
    assert error.retry_after is None


def test_the_error_samples() -> None:
    error = declined(Refused, NAME, reply(400, fixture("ark_error_400")))
    assert "`duration`" in error.message
    assert isinstance(submit(NAME, reply(503, fixture("ark_error_503"))), NotAccepted)


# ---------------------------------------------------------------------- other calls


def test_calls() -> None:
    assert API.status_call("cgt-1").path == "/contents/generations/tasks/cgt-1"
    cancel = API.cancel_call("cgt/1")
    assert (cancel.method, cancel.path) == ("DELETE", "/contents/generations/tasks/cgt%2F1")
    probe = API.probe_call()
    assert (probe.method, probe.path) == ("GET", "/contents/generations/tasks")
    assert probe.query == (("page_num", "1"), ("page_size", "1"))
    several = (("page_num", "1"), ("page_size", "2"), ("filter.task_ids", "a"), ("filter.task_ids", "b"))
    assert API.list_of_call(["a", "b"]).query == several


def many(items: Any, *ids: str) -> Mapping[str, Generation]:
    found: Mapping[str, Generation]
    found, _ = drive(API.status_many_flow(ids, NOW), [reply(200, {"total": len(ids), "items": items})])
    return found


def test_each_in_a_list_is_read_as_if_it_were_alone() -> None:
    content = {"content": {"video_url": "https://x/v.mp4"}, "updated_at": 1700000000}
    items = [
        {"id": "a", "status": "running"},
        {"id": "b", "status": "succeeded", **content},
        {"id": "c", "status": "failed", "error": {"code": "X", "message": "no"}},
    ]
    found = many(items, "a", "b", "c")
    statuses = {name: one.status.value for name, one in found.items()}
    assert statuses == {"a": "running", "b": "succeeded", "c": "failed"}
    assert found["b"].urls == ("https://x/v.mp4",)
    assert (found["c"].error_code, found["c"].error_message) == ("X", "no")


def test_generations_missing_from_a_list_are_absent() -> None:
    for items in [
        None,
        "x",
        [],
        [None, 5, "a", []],
        [{"id": "of-another-user", "status": "succeeded", "content": {"video_url": "https://x/v.mp4"}}],
        [{"id": "a"}, {"id": "a", "status": None}, {"id": "a", "status": ""}, {"status": "running"}],
    ]:
        assert many(items, "a") == {}


def test_a_list_of_both_tiers_has_each_generation_once() -> None:
    items = [{"id": name, "status": "queued", "created_at": number} for number, name in enumerate("ab")]
    everything = reply(200, {"total": 2, "items": items})
    found, steps = drive(API.list_flow(10, NOW), [everything] * 2)
    assert [generation.generation_id for generation in found] == ["b", "a"]
    assert [dict(call.query).get("filter.service_tier") for call in calls(steps)] == [None, "flex"]


def test_a_list_that_fails_is_an_error() -> None:
    with pytest.raises(errors.SeedanceRateLimitError):
        drive(API.status_many_flow(["a"], NOW), [reply(429)])
