"""seedanceapi.org v2 against its guide."""

from __future__ import annotations

from helpers import accepted, body_of, call_for, fixture, prepare, read, refused, reply, submit, video

from airflow_provider_seedance.apis.messages import NotAccepted, Refused
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.generations import Estimate
from airflow_provider_seedance.generations import GenerationStatus as Status

NAME = "seedanceapi-v2"
API = get_api(NAME)


def test_the_request_of_the_guide_is_sent_as_it_stands_there() -> None:
    sample = fixture("seedanceapi_v2_request")
    call = call_for(NAME, video(**sample))
    assert call.json == sample
    assert (call.method, call.path) == ("POST", "/generate")
    assert API.default_base_url == "https://seedanceapi.org/v2"


def test_every_field_goes_to_its_documented_name_and_type() -> None:
    urls = [f"https://example.com/{number}.png" for number in range(4)]
    request = video(
        model="seedance-2.0-fast",
        duration="15",
        aspect_ratio="3:4",
        images=urls,
        extra_params={"beta": {"a": 1}},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb", correlation="c") == {
        "prompt": "A lamp",
        "model": "seedance-2.0-fast",
        "duration": 15,
        "aspect_ratio": "3:4",
        "images": urls,
        "callback_url": "https://example.com/cb",
        "beta": {"a": 1},
    }


def test_only_the_model_is_filled_in() -> None:
    prepared = prepare(NAME, video())
    assert API.submit_call(prepared.request).json == {"prompt": "A lamp", "model": "seedance-2.0"}
    assert prepared.defaults == ("model='seedance-2.0' (default of seedanceapi-v2)",)


def test_documented_values_pass_without_a_word() -> None:
    for name, value in (
        *[("duration", value) for value in (5, 10, 15, "5", "10", "15")],
        *[("aspect_ratio", value) for value in ("16:9", "9:16", "4:3", "3:4")],
        *[("model", value) for value in ("seedance-2.0", "seedance-2.0-fast")],
        ("prompt", "😀" * 2000),
    ):
        assert prepare(NAME, video(**{name: value})).warnings == (), (name, value)


def test_other_values_are_refused() -> None:
    for name, value, takes in [
        ("duration", 8, "5, 10 or 15 (seconds)"),
        ("aspect_ratio", "1:1", "16:9, 9:16, 4:3 or 3:4"),
        ("aspect_ratio", "21:9", "16:9, 9:16, 4:3 or 3:4"),
        ("aspect_ratio", "9:21", "16:9, 9:16, 4:3 or 3:4"),
        ("images", [f"https://a.example/{n}" for n in range(5)], "at most 4 images as https URLs"),
        ("images", [{"url": "https://a.example/1", "role": "first_frame"}], "role 'first_frame'"),
        ("prompt", "😀" * 2001, "at most 2000 characters"),
        ("fps", 24, "is not an argument of seedanceapi-v2"),
        ("seed", 24, "is not an argument of seedanceapi-v2"),
    ]:
        refused(NAME, video(**{name: value}), name, takes)


def test_unavailable_with_a_code_is_the_services_own_word() -> None:
    for http, status in [(200, 503), (503, 503)]:
        outcome = submit(NAME, reply(http, {"code": status, "message": "busy"}))
        assert isinstance(outcome, NotAccepted if http == 503 else Refused)


def test_submissions_nested_and_flat() -> None:
    for body, generation_id in [
        ({"code": 200, "message": "success", "data": {"task_id": "t1", "status": "IN_PROGRESS"}}, "t1"),
        ({"task_id": "t2", "status": "IN_PROGRESS"}, "t2"),
        ({"id": "t3"}, "t3"),
        ({"code": 0, "data": {"id": 4}}, "4"),
    ]:
        for status in (200, 201, 202):
            generation = accepted(NAME, reply(status, body))
            assert generation.generation_id == generation_id
            assert not generation.status.terminal
            assert generation.model == "seedance-2.0"


def test_results_nested_and_flat() -> None:
    for body in [
        {"code": 200, "data": {"task_id": "t", "status": "SUCCESS", "response": ["https://a.example/v.mp4"]}},
        {"task_id": "t", "status": "success", "response": "https://a.example/v.mp4"},
        {"id": "t", "status": "SUCCESS", "video_url": "https://a.example/v.mp4"},
    ]:
        generation = read(API, body)
        assert generation.status is Status.SUCCEEDED
        assert generation.urls == ("https://a.example/v.mp4",)


def test_consumed_credits_have_no_published_rate() -> None:
    body = {
        "code": 200,
        "data": {"task_id": "t", "status": "SUCCESS", "consumed_credits": 60, "response": ["u"]},
    }
    assert (read(API, body).credits, read(API, body).cost_usd) == (60, None)
    assert API.price(video(duration=5)) == Estimate()


def test_arguments_on_which_the_guide_is_silent_pass_with_a_warning() -> None:
    (warning,) = prepare(NAME, video(fixed_lens=True)).warnings
    assert warning.startswith("fixed_lens: True is sent")
    (warning,) = prepare(NAME, video(aspect_ratio="16:9", images="https://example.com/a.png")).warnings
    assert "text-to-video only" in warning
    # Row 18 of the contradictions: they are sent.
    prepared = prepare(NAME, video(resolution="720p", generate_audio=True, extra_params={"fixed_lens": True}))
    assert len(prepared.warnings) == 2
    sent = {"resolution": "720p", "generate_audio": True, "fixed_lens": True}
    assert body_of(NAME, prepared.request) == {"prompt": "A lamp", "model": "seedance-2.0", **sent}
    assert prepare(NAME, video(aspect_ratio="16:9")).warnings == ()
