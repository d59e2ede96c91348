"""runbase.net against its page."""

from __future__ import annotations

from helpers import (
    accepted,
    body_of,
    call_for,
    declined,
    failed_read,
    fixture,
    image,
    prepare,
    read,
    refused,
    reply,
    video,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import NotAccepted, Refused, Uncertain
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import GenerationStatus as Status

NAME = "runbase"
API = get_api(NAME)


def test_the_request_of_the_page_is_sent_as_it_stands_there() -> None:
    sample = fixture("runbase_request")
    call = call_for(NAME, video(sample["input"]["prompt"]))
    assert call.json == sample
    assert (call.method, call.path) == ("POST", "/runs")
    assert prepare(NAME, video()).defaults == ("model='bytedance/seedance-1.5-pro' (default of runbase)",)


def test_every_field_goes_into_the_input_with_its_documented_name_and_type() -> None:
    urls = [f"https://example.com/{number}.png" for number in range(9)]
    request = video(
        model="bytedance/seedance-1.5-pro",
        aspect_ratio="21:9",
        resolution="1080p",
        duration=12,
        generate_audio=True,
        images=urls,
        extra_params={"beta": 1},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb", correlation="c") == {
        "model": "bytedance/seedance-1.5-pro",
        "input": {
            "prompt": "A lamp",
            "aspect_ratio": "21:9",
            "resolution": "1080p",
            "duration": "12",
            "generate_audio": True,
            "image_urls": urls,
            "beta": 1,
        },
    }


def test_documented_values_pass_without_a_word() -> None:
    for name, value in (
        *[("aspect_ratio", value) for value in ("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")],
        *[("resolution", value) for value in ("480p", "720p", "1080p")],
        *[("duration", value) for value in (4, 8, 12, "4", "8", "12")],
        ("generate_audio", False),
        ("prompt", "x" * 20000),
    ):
        assert prepare(NAME, video(**{name: value})).warnings == (), (name, value)


def test_images_go_to_the_same_endpoint_with_a_warning() -> None:
    request = image(images="https://example.com/1.png", extra_params={"size": "2K"})
    assert call_for(NAME, request).path == "/runs"
    assert body_of(NAME, request) == {
        "model": "bytedance/seedream-4.5",
        "input": {"prompt": "A lamp", "image_urls": ["https://example.com/1.png"], "size": "2K"},
    }
    (warning,) = prepare(NAME, request).warnings
    assert "'bytedance/seedream-4.5' is sent, but the documents of runbase mention no images" in warning
    refused(NAME, image(num_images=2), "num_images=2 is not an argument of runbase")


def test_an_image_ends_as_a_run_does() -> None:
    created = accepted(NAME, reply(201, {"id": "r1", "status": "pending"}), image())
    assert (created.media, created.status) == ("image", Status.QUEUED)
    body = {"id": "r1", "status": "succeeded", "output": {"urls": ["https://a.example/1.png"]}}
    assert read(API, body, media="image").urls == ("https://a.example/1.png",)


def test_other_values_are_refused() -> None:
    for name, value, takes in [
        ("aspect_ratio", "9:21", "16:9, 9:16, 4:3, 3:4, 1:1 or 21:9"),
        ("resolution", "4k", "480p, 720p or 1080p"),
        ("duration", 5, "4, 8 or 12 (seconds)"),
        ("fixed_lens", True, "is not an argument of runbase"),
        ("fps", 24, "is not an argument of runbase"),
        ("seed", 24, "is not an argument of runbase"),
    ]:
        refused(NAME, video(**{name: value}), name, takes)


def test_the_id_is_found_where_clients_have_seen_it() -> None:
    created = {"id": "r1", "status": "pending"}
    for body in (created, {"run_id": "r1"}, {"data": created}):
        generation = accepted(NAME, reply(201, body))
        assert (generation.generation_id, generation.status) == ("r1", Status.QUEUED)


def test_every_status_that_was_seen() -> None:
    for word, status in [
        ("pending", Status.QUEUED),
        ("running", Status.RUNNING),
        ("succeeded", Status.SUCCEEDED),
        ("failed", Status.FAILED),
    ]:
        generation = read(API, {"id": "r1", "status": word, "error": "no luck"})
        assert (generation.status, generation.error_message) == (
            status,
            "no luck" if word == "failed" else None,
        )


def test_the_output() -> None:
    url = "https://a.example/v.mp4"
    for output in ({"urls": [url]}, {"url": url}, [url]):
        body = {"id": "r1", "status": "succeeded", "output": output, "costUsd": 0.25}
        for answer in (body, {"data": body}):
            generation = read(API, answer)
            assert (generation.urls, generation.cost_usd, generation.credits) == ((url,), 0.25, None)


def test_an_error_without_an_id_is_not_a_failed_run() -> None:
    for body in [{"status": "error", "message": "down"}, {"status": "error", "error": "down"}, {}]:
        assert type(failed_read(NAME, reply(200, body))) is errors.SeedanceServerError


def test_the_error_table_with_any_body() -> None:
    for status, fate, cls in [
        (400, Refused, errors.SeedanceRequestError),
        (401, Refused, errors.SeedanceAuthenticationError),
        (402, Refused, errors.SeedanceInsufficientCreditsError),
        (403, Refused, errors.SeedanceForbiddenError),
        (404, Refused, errors.SeedanceNotFoundError),
        (429, NotAccepted, errors.SeedanceRateLimitError),
        (500, Uncertain, errors.SeedanceServerError),
    ]:
        said = {"code": "x", "message": "why"}
        for body in ({"error": "why"}, {"error": said}, {"message": "why"}, b"why", None):
            error = declined(fate, NAME, reply(status, body))
            assert type(error) is cls
            assert body is None or "why" in error.message


def test_calls() -> None:
    assert API.status_call("a/b").path == "/runs/a%2Fb"
    assert API.callback_field is None
