"""Replies of BytePlus ModelArk and Volcengine Ark, against part 3 of the collected facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from helpers import NOW, accepted, calls, declined, drive, fixture, image, prepare, read, reply, submit, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import HttpReply, NotAccepted, Refused, Uncertain
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.generations import GenerationStatus as Status

NAME = "ark"
API = get_api(NAME)
CHINA = "https://ark.cn-beijing.volces.com/api/v3"


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
    error = declined(Refused, NAME, reply(200, body), image())
    assert "why" in error.message


def test_images_without_a_url_come_as_data() -> None:
    for more, kind in [({}, "jpeg"), ({"output_format": "png"}, "png")]:
        body = {"model": "m", "created": 1, "data": [{"b64_json": "/9j/4AAQ", "size": "1x1", **more}]}
        generation = accepted(NAME, reply(200, body), image())
        assert generation.urls == (f"data:image/{kind};base64,/9j/4AAQ",)
    body = {"model": "m", "created": 1, "data": [{"b64_json": "iVBORw0KGgoAAAA", "size": "1x1"}]}
    assert accepted(NAME, reply(200, body), image()).urls == ("data:image/png;base64,iVBORw0KGgoAAAA",)


def test_no_images_and_no_error_is_uncertain() -> None:
    declined(Uncertain, NAME, reply(200, {"model": "m", "created": 1, "data": []}), image())


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
        error = declined(
            fate, NAME, reply(status, {"error": {"code": code, "message": "why", "param": "", "type": "t"}})
        )
        assert type(error) is cls
        assert error.vendor_code == code
        assert error.http_status == status


def test_the_message_tells_which_exceeded_quota_returns() -> None:
    for message, fate, cls, solution in [
        (
            "Your account [1] has exhausted its free trial quota for the [m] model.",
            Refused,
            errors.SeedanceForbiddenError,
            "activate the model",
        ),
        (
            "当前账号 1 对 m 模型的免费试用额度已消耗完毕",
            Refused,
            errors.SeedanceForbiddenError,
            "activate the model",
        ),
        ("The number of queued tasks has reached the limit.", NotAccepted, errors.SeedanceRateLimitError, ""),
        ("The plan is used up until 2026-11-28 10:00.", NotAccepted, errors.SeedanceRateLimitError, ""),
    ]:
        error = declined(fate, NAME, reply(429, {"error": {"code": "QuotaExceeded", "message": message}}))
        assert type(error) is cls
        assert solution in error.message


@pytest.mark.parametrize("window", ["5-hour", "weekly", "monthly"])
def test_the_end_of_a_plan_window_is_read_from_the_message(window: str) -> None:
    # As public recordings of the service have it.
    message = (
        f"You have exceeded the {window} usage quota. It will reset at {{}} +0800 CST. We recommend upgrading your plan "
        "for more quota, or waiting for the reset. Request id: 021"
    )

    def wait(reset_at: str) -> float | None:
        body = {"error": {"code": "AccountQuotaExceeded", "message": message.format(reset_at)}}
        error = declined(NotAccepted, NAME, reply(429, body))
        assert isinstance(error, errors.SeedanceRateLimitError)
        return error.retry_after

    reset_at = (NOW + timedelta(hours=80)).astimezone(timezone(timedelta(hours=8)))
    assert wait(f"{reset_at:%Y-%m-%d %H:%M:%S}") == 80 * 3600
    assert wait(f"{reset_at:%Y-%m-%d %H:%M}") == 80 * 3600 - reset_at.second
    assert wait("2020-01-01 00:00:00") == 0
    assert wait("2026-02-31 00:00:00") is None


def test_the_end_of_a_quota_is_read_in_other_forms() -> None:
    for until in ("2026-02-07T11:40:00Z", "2026-02-07 19:40:00+08:00"):
        body = {"error": {"code": "QuotaExceeded", "message": f"The plan is used up until {until}."}}
        error = declined(NotAccepted, NAME, reply(429, body))
        assert isinstance(error, errors.SeedanceRateLimitError)
        assert error.retry_after == 3600


def test_a_404_about_the_model_does_not_say_that_a_generation_is_unknown() -> None:
    answer = reply(404, {"error": {"code": "UnsupportedModel", "message": "m"}})
    assert type(API.error_for(answer, API.status_call("cgt-1"), now=NOW)) is errors.SeedanceRequestError
    unknown = reply(404, {"error": {"code": "ResourceNotFound", "message": "m"}})
    assert type(API.error_for(unknown, API.status_call("cgt-1"), now=NOW)) is errors.SeedanceNotFoundError


def test_a_paused_model_says_who_has_to_resume_it() -> None:
    error = declined(Refused, NAME, reply(429, {"error": {"code": "SetLimitExceeded", "message": "paused"}}))
    assert "Safe Experience Mode" in error.message
    assert error.retry_after is None


def test_the_error_samples() -> None:
    error = declined(Refused, NAME, reply(400, fixture("ark_error_400")))
    assert "`duration`" in error.message
    assert isinstance(submit(NAME, reply(503, fixture("ark_error_503"))), NotAccepted)
    google = {"error": {"code": 503, "message": "no healthy upstream", "status": "UNAVAILABLE"}}
    assert isinstance(submit(NAME, reply(503, google)), Uncertain)


def test_calls() -> None:
    assert API.status_call("cgt-1").path == "/contents/generations/tasks/cgt-1"
    cancel = API.cancel_call("cgt/1")
    assert (cancel.method, cancel.path) == ("DELETE", "/contents/generations/tasks/cgt%2F1")
    probe = API.probe_call()
    assert (probe.method, probe.path) == ("GET", "/contents/generations/tasks")
    assert probe.query == (("page_num", "1"), ("page_size", "1"))


def test_only_what_is_queued_by_the_services_own_word_may_be_cancelled() -> None:
    for word in ("running", "succeeded", "failed", "cancelled", "expired"):
        assert not API.may_cancel(read(API, fixture(f"ark_task_{word}")))
    assert API.may_cancel(read(API, fixture("ark_task_queued")))
    assert not API.may_cancel(API.read_generation({"id": "g"}, "g", media="video", now=NOW))


# ---------------------------------------------------------------------- many at once


def many(body: Any, *ids: str) -> Mapping[str, Generation]:
    flow = API.status_many_flow(ids, NOW)
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(status=200, headers={}, body=json.dumps(body).encode()))
    found: Mapping[str, Generation] = stop.value.value
    return found


def test_several_generations_are_requested_by_their_ids() -> None:
    call = API.list_of_call(["a", "b"])
    assert call.query == (
        ("page_num", "1"),
        ("page_size", "2"),
        ("filter.task_ids", "a"),
        ("filter.task_ids", "b"),
    )


def test_each_in_a_list_is_read_as_if_it_were_alone() -> None:
    items = [
        {"id": "a", "status": "running"},
        {
            "id": "b",
            "status": "succeeded",
            "content": {"video_url": "https://x/v.mp4"},
            "updated_at": 1700000000,
        },
        {"id": "c", "status": "failed", "error": {"code": "X", "message": "no"}},
    ]
    found = many({"total": 3, "items": items}, "a", "b", "c")
    assert {name: one.status.value for name, one in found.items()} == {
        "a": "running",
        "b": "succeeded",
        "c": "failed",
    }
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
        assert many({"total": 1, "items": items}, "a") == {}


def test_a_list_of_both_tiers_has_each_generation_once() -> None:
    items = [{"id": name, "status": "queued", "created_at": number} for number, name in enumerate("ab")]
    everything = reply(200, {"total": 2, "items": items})
    found, steps = drive(API.list_flow(10, NOW), [everything] * 2)
    assert [generation.generation_id for generation in found] == ["b", "a"]
    assert [dict(call.query).get("filter.service_tier") for call in calls(steps)] == [None, "flex"]


def test_a_list_that_fails_is_an_error() -> None:
    flow = API.status_many_flow(["a"], NOW)
    next(flow)
    with pytest.raises(errors.SeedanceRateLimitError):
        flow.send(HttpReply(status=429, headers={}, body=b""))
