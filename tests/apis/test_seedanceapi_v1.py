"""seedanceapi.org v1 against its page."""

from __future__ import annotations

from helpers import (
    accepted,
    body_of,
    call_for,
    declined,
    failed_read,
    fixture,
    prepare,
    read,
    refused,
    reply,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Refused, Uncertain
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import Estimate
from airflow_provider_seedance.generations import GenerationStatus as Status

NAME = "seedanceapi-v1"
API = get_api(NAME)

#: The page's table: resolution, seconds, credits and dollars without sound, credits and dollars with it.
PRICES = [
    ("480p", 4, 8, 0.04, 14, 0.07),
    ("480p", 8, 14, 0.07, 28, 0.14),
    ("480p", 12, 19, 0.095, 38, 0.19),
    ("720p", 4, 14, 0.07, 28, 0.14),
    ("720p", 8, 28, 0.14, 56, 0.28),
    ("720p", 12, 42, 0.21, 84, 0.42),
]


def test_the_requests_of_the_page_are_sent_as_they_stand_there() -> None:
    for sample in ["quickstart", "text", "image", "audio"]:
        body = fixture(f"seedanceapi_v1_request_{sample}")
        given = dict(body)
        if "image_urls" in given:
            given["images"] = given.pop("image_urls")
        call = call_for(NAME, video(**given))
        assert call.json == body
        assert (call.method, call.path) == ("POST", "/generate")


def test_every_field_goes_to_its_documented_name_and_type() -> None:
    request = video(
        aspect_ratio="9:21",
        resolution="480p",
        duration=12,
        generate_audio="true",
        fixed_lens="False",
        images=["https://example.com/a.png"],
        extra_params={"beta": 1},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb", correlation="c") == {
        "prompt": "A lamp",
        "aspect_ratio": "9:21",
        "resolution": "480p",
        "duration": "12",
        "generate_audio": True,
        "fixed_lens": False,
        "image_urls": ["https://example.com/a.png"],
        "callback_url": "https://example.com/cb",
        "beta": 1,
    }


def test_only_arguments_that_are_set_are_sent() -> None:
    prepared = prepare(NAME, video())
    assert API.submit_call(prepared.request).json == {"prompt": "A lamp"}
    assert prepared.defaults == ()


def test_documented_values_pass_without_a_word() -> None:
    for name, value in (
        *[("aspect_ratio", value) for value in ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")],
        *[("resolution", value) for value in ("480p", "720p")],
        *[("duration", value) for value in (4, 8, 12, "4", "8", "12", 8.0, " 8 ")],
        ("generate_audio", False),
        ("fixed_lens", True),
        ("prompt", "語" * 2000),
        ("images", []),
        ("images", "None"),
        ("duration", ""),
        ("resolution", "None"),
    ):
        assert prepare(NAME, video(**{name: value})).warnings == (), (name, value)


def test_other_values_are_refused() -> None:
    for name, value, takes in [
        ("aspect_ratio", "2:1", "1:1, 16:9, 9:16, 4:3, 3:4, 21:9 or 9:21"),
        ("resolution", "1080p", "480p or 720p"),
        ("duration", 5, "4, 8 or 12 (seconds)"),
        ("duration", True, "4, 8 or 12"),
        ("generate_audio", "yes", "true or false"),
        ("generate_audio", 1, "true or false"),
        ("prompt", "語" * 2001, "at most 2000 characters"),
        ("images", ["https://a.example/1", "https://a.example/2"], "at most 1 image"),
        ("model", "seedance-2.0", "is not an argument of seedanceapi-v1"),
        ("fps", 24, "is not an argument of seedanceapi-v1"),
        ("seed", 1, "is not an argument of seedanceapi-v1"),
    ]:
        refused(NAME, video(**{name: value}), name, takes)
    # One message lists every problem.
    request = video(duration=5, resolution="4k", fps=24)
    refused(NAME, request, "duration=5", "resolution='4k'", "fps=24")


# ---------------------------------------------------------------------- prices


def test_the_whole_price_table() -> None:
    for resolution, seconds, silent, silent_usd, sound, sound_usd in PRICES:
        for audio, credits, usd in [
            (False, silent, silent_usd),
            (True, sound, sound_usd),
            (None, silent, silent_usd),
        ]:
            price = API.price(video(resolution=resolution, duration=seconds, generate_audio=audio))
            assert (price.credits, price.cost_usd) == (credits, usd)
    # The service's own defaults.
    price = API.price(video())
    assert (price.credits, price.cost_usd) == (28, 0.14)


def test_extra_params_count_for_the_price_and_nonsense_in_them_leaves_it_open() -> None:
    assert API.price(video(extra_params={"duration": "12", "generate_audio": True})).credits == 84
    for unknown in (["720p"], "8k"):
        assert API.price(video(extra_params={"resolution": unknown})) == Estimate()


def test_the_price_is_among_the_facts_of_a_prepared_request() -> None:
    result_defaults = prepare(NAME, video(duration="12", resolution="480p")).result_defaults
    assert result_defaults.as_dict() == {
        "duration": 12,
        "resolution": "480p",
        "credits": 19,
        "cost_usd": 0.095,
    }


# ---------------------------------------------------------------------- replies


def test_the_created_task_of_the_page() -> None:
    generation = accepted(NAME, reply(200, fixture("seedanceapi_v1_created")))
    assert generation.generation_id == "seed15abc123def456pro"
    assert generation.status is Status.RUNNING


def test_the_finished_task_of_the_page() -> None:
    generation = read(API, fixture("seedanceapi_v1_status_success"), "seed15abc123def456pro")
    assert generation.result() == {
        "generation_id": "seed15abc123def456pro",
        "api": NAME,
        "media": "video",
        "status": "succeeded",
        "model": None,
        "url": "https://cdn.example.com/videos/seed15abc123def456pro.mp4",
        "urls": ["https://cdn.example.com/videos/seed15abc123def456pro.mp4"],
        "duration": 8,
        "resolution": "720p",
        "credits": 28,
        "cost_usd": 0.14,
        "created_at": "2026-02-07T10:30:00+00:00",
        "completed_at": None,
        "expires_at": None,
        "seed": None,
        "aspect_ratio": None,
        "fps": None,
        "last_frame_url": None,
        "usage": None,
        "reused_from": None,
    }


def test_the_status_call_has_the_id_in_the_query() -> None:
    call = API.status_call("seed15 abc&x")
    assert (call.method, call.path, call.query) == ("GET", "/status", (("task_id", "seed15 abc&x"),))


def test_a_failed_task_is_http_200_in_any_envelope() -> None:
    body = fixture("seedanceapi_v1_status_success")
    body["data"] |= {"status": "FAILED", "response": None, "consumed_credits": 0}
    # The word of the envelope is not the reason of a failure.
    assert read(API, body).error_message is None
    body["data"]["error_message"] = "bad luck"
    for code in [200, 0, 400, 500, "INTERNAL_ERROR"]:
        generation = read(API, {**body, "code": code})
        assert (generation.status, generation.error_message) == (Status.FAILED, "bad luck")
        assert (generation.urls, generation.credits, generation.cost_usd) == ((), 0, 0)


def test_the_error_table_in_every_plausible_body() -> None:
    for status, code, cls in [
        (400, "INVALID_PROMPT", errors.SeedanceRequestError),
        (400, "INVALID_ASPECT_RATIO", errors.SeedanceRequestError),
        (400, "INVALID_RESOLUTION", errors.SeedanceRequestError),
        (400, "INVALID_DURATION", errors.SeedanceRequestError),
        (400, "TOO_MANY_IMAGES", errors.SeedanceRequestError),
        (401, "INVALID_API_KEY", errors.SeedanceAuthenticationError),
        (402, "INSUFFICIENT_CREDITS", errors.SeedanceInsufficientCreditsError),
        (404, "TASK_NOT_FOUND", errors.SeedanceNotFoundError),
    ]:
        for body, shown in (
            ({"code": code, "message": "why"}, code),
            ({"error": {"code": code, "message": "why"}}, code),
            ({"code": code, "message": "why", "error": code, "data": None}, code),
            ({"code": status, "message": "why", "data": None}, str(status)),
        ):
            # With HTTP 200, it is still the service's error shape, and a refusal.
            for http in (status, 200):
                error = declined(Refused, NAME, reply(http, body))
                assert (type(error), error.vendor_code) == (cls, shown)
                assert "why" in error.message
    error = declined(Uncertain, NAME, reply(500, {"code": "INTERNAL_ERROR", "message": "m"}))
    assert error.vendor_code == "INTERNAL_ERROR"


def test_a_status_that_tells_no_state_is_unreadable_not_queued_or_failed() -> None:
    for body in [
        {"status": "error", "message": "database down"},
        {"code": 200, "message": "success", "data": {}},
        {"code": 200, "message": "success", "data": None},
        {},
        [],
        "ok",
    ]:
        assert type(failed_read(NAME, reply(200, body))) is errors.SeedanceServerError
