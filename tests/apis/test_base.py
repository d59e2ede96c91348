"""Behaviour that all services share, except the outcomes of a submission: registry, preparation, plain reads."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import httpx
import pytest
from helpers import ALL_APIS, NOW, body_of, declined, drive, image, prepare, reply, submit, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Refused, Uncertain
from airflow_provider_seedance.apis.registry import DEFAULT_API, get_api
from airflow_provider_seedance.submission.records import Fingerprint
from airflow_provider_seedance.urls import MediaHosts


def test_the_registry() -> None:
    seeds = ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "runbase")
    assert (*seeds, "ark", "fal", "replicate", "openrouter") == ALL_APIS
    assert DEFAULT_API == "seedanceapi-v2"
    for name in ALL_APIS:
        assert get_api(name).name == name
    for name in ("Ark", "", None, 5, ["ark"]):
        with pytest.raises(errors.SeedanceConfigurationError, match="this package knows seedance2api"):
            get_api(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 1), {1, 2}, b"x", math.nan, math.inf, object(), "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_a_request_that_is_not_json_is_refused(name: str, value: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="cannot be written as JSON"):
        prepare(name, video(extra_params={"beta": [value]}))
    with pytest.raises(errors.SeedanceRequestError, match="cannot be written as JSON"):
        prepare(name, video("\ud83c"))


def nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF += [HOLDS_ITSELF, HOLDS_ITSELF]


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize(
    "value", [nested(65), nested(600), nested(100_000), HOLDS_ITSELF], ids=["65", "600", "100000", "itself"]
)
def test_a_request_that_is_nested_too_deep_is_refused(name: str, value: Any) -> None:
    for wrong in (
        {"extra_params": {"beta": value}},
        {"images": [value]},
        {"images": [{"url": "https://a.example/b.png", "role": value}]},
        {"duration": [value]},
        {"model": [value]},
        {"prompt": [value]},
    ):
        with pytest.raises(errors.SeedanceRequestError, match=r"deeper than 64 levels.*Nothing was sent"):
            prepare(name, video(**wrong))


@pytest.mark.parametrize("name", ALL_APIS)
def test_the_deepest_permitted_request_has_a_fingerprint(name: str) -> None:
    found = prepare(name, video(extra_params={"beta": nested(63)}))
    assert Fingerprint.of(found.as_requested, api=name, base_url="x").arguments["extra_params"]


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize("model", [{"a": 1}, ["seedance-2.0"], 5, True, b"seedance-2.0"], ids=str)
def test_a_model_other_than_text_is_refused(name: str, model: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError, match=r"model=.* is not accepted: .* takes "):
        prepare(name, video(model=model))


@pytest.mark.parametrize("name", ALL_APIS)
def test_extra_params_win_and_are_not_looked_into(name: str) -> None:
    extra = {"prompt": "other", "duration": 99, "deep": {"a": [None, True]}}
    body = body_of(name, video(extra_params=extra))
    body = body.get("input", body)
    assert {key: body[key] for key in extra} == extra


@pytest.mark.parametrize("name", ALL_APIS)
def test_building_a_body_leaves_the_request_alone(name: str) -> None:
    api = get_api(name)
    prepared = prepare(name, video(images="https://a.example/1.png", extra_params={"a": 1})).request
    first = api.submit_call(prepared, callback_url="https://a.example/cb", correlation="c").json
    assert api.submit_call(prepared, callback_url="https://a.example/cb", correlation="c").json == first
    assert api.submit_call(prepared).json != first or name == "runbase"
    assert prepared.extra_params == {"a": 1}


@pytest.mark.parametrize("name", ALL_APIS)
def test_named_hosts_may_hold_the_inputs(name: str) -> None:
    request = video(images="http://minio:9000/1.png")
    with pytest.raises(errors.SeedanceRequestError, match="media_hosts"):
        prepare(name, request)
    assert prepare(name, request, media_hosts=MediaHosts.parse(["minio:9000"])).request.images


@pytest.mark.parametrize("name", ["seedanceapi-v1", "seedanceapi-v2", "openrouter"])
def test_three_services_make_no_images(name: str) -> None:
    with pytest.raises(errors.SeedanceRequestError, match=r"makes videos only.*api makes images"):
        prepare(name, image())


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"ok": true}', b'{"data": {}}'])
def test_a_2xx_that_tells_no_state_is_trouble_not_a_state(name: str, body: bytes) -> None:
    with pytest.raises(errors.SeedanceServerError) as caught:
        drive(get_api(name).status_flow("g1", "video", NOW), [reply(200, body)])
    assert caught.value.generation_id == "g1"
    assert caught.value.retry_helps


@pytest.mark.parametrize("name", ALL_APIS)
def test_a_read_that_is_refused_for_an_unknown_reason_may_be_repeated(name: str) -> None:
    body = {
        "seedance2api": {"status": "error", "error": {"code": "ODD", "message": "m"}},
        "ark": {"error": {"code": "Odd", "message": "m"}},
        "runbase": {"error": "m"},
    }.get(name, {"code": "ODD", "message": "m"})
    with pytest.raises(errors.SeedanceServerError):
        drive(get_api(name).status_flow("g1", "video", NOW), [reply(200, body)])


def test_a_driver_must_answer() -> None:
    flow = get_api("ark").status_flow("g1", "video", NOW)
    next(flow)
    with pytest.raises(RuntimeError):
        next(flow)


def about(name: str, **fields: Any) -> dict[str, Any]:
    """A reply about a generation that has ended, with these fields beside it."""
    url = "https://cdn.example.com/1.mp4"
    return {"status": "completed", "response": [url], "video_url": url, "output": {"urls": [url]}, **fields}


@pytest.mark.parametrize("name", ["seedanceapi-v1", "seedanceapi-v2"])
@pytest.mark.parametrize("field", ["id", "task_id"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_reply_about_another_generation_is_not_delivered(name: str, field: str, nested: bool) -> None:
    body = {"data": about(name, **{field: "other"})} if nested else about(name, **{field: "other"})
    with pytest.raises(errors.SeedanceServerError, match="is about another generation") as caught:
        drive(get_api(name).status_flow("g1", "video", NOW), [reply(200, body)])
    assert caught.value.retry_helps
    assert caught.value.generation_id == "g1"


@pytest.mark.parametrize(
    "name", [name for name in ALL_APIS if name not in ("ark", "fal", "replicate", "openrouter")]
)
@pytest.mark.parametrize(
    "ids", [{}, {"id": None}, {"id": 17}, {"task_id": "17"}, {"id": "req-5", "task_id": 17}]
)
def test_a_reply_about_the_right_generation_or_without_an_id_is_delivered(
    name: str, ids: dict[str, Any]
) -> None:
    generation, _ = drive(get_api(name).status_flow("17", "video", NOW), [reply(200, about(name, **ids))])
    assert generation.generation_id == "17"
    assert generation.urls == ("https://cdn.example.com/1.mp4",)


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize(
    "code",
    ["InvalidEndpointOrModel.NotFound", "AccountOverdueError", "SENSITIVE_CONTENT", "AuthenticationError"],
)
@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, errors.SeedanceAuthenticationError),
        (404, errors.SeedanceNotFoundError),
        (429, errors.SeedanceRateLimitError),
        (500, errors.SeedanceServerError),
        (503, errors.SeedanceServerError),
    ],
)
def test_on_a_read_the_http_status_says_what_it_says(name: str, code: str, status: int, cls: type) -> None:
    body = {"status": "error", "code": code, "error": {"code": code, "message": "m"}}
    with pytest.raises(errors.SeedanceError) as caught:
        drive(get_api(name).status_flow("g1", "video", NOW), [reply(status, body)])
    assert type(caught.value) is cls
    assert caught.value.vendor_code == code


def test_codes_refine_what_a_status_leaves_open() -> None:
    def error(status: int, code: str) -> errors.SeedanceError:
        with pytest.raises(errors.SeedanceError) as caught:
            drive(get_api("ark").status_flow("g1", "video", NOW), [reply(status, {"error": {"code": code}})])
        return caught.value

    assert type(error(403, "AccountOverdueError")) is errors.SeedanceInsufficientCreditsError
    assert type(error(400, "InputTextSensitiveContentDetected")) is errors.SeedanceModerationError
    refused = declined(
        Refused, "ark", reply(404, {"error": {"code": "InvalidEndpointOrModel.NotFound", "message": "m"}})
    )
    assert type(refused) is errors.SeedanceRequestError


@pytest.mark.parametrize("name", ["seedance2api", "runbase", "ark", "fal", "replicate"])
@pytest.mark.parametrize("generation_id", [".", "..", "..."])
def test_an_id_of_dots_stays_in_its_place(name: str, generation_id: str) -> None:
    api = get_api(name)
    url = httpx.URL(api.default_base_url + api.status_call(generation_id).path)
    assert url.raw_path.decode().removesuffix("/status").endswith("/" + "%2E" * len(generation_id))


@pytest.mark.parametrize("name", ALL_APIS)
def test_an_id_that_no_url_can_carry_is_none(name: str) -> None:
    body = {"id": "\ud800", "task_id": "a\udfff"}
    assert get_api(name).find_id(body) is None
    assert isinstance(submit(name, reply(200, body)), Uncertain)
