"""Behaviour that all services share, except the outcomes of a submission: registry, preparation, plain reads."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import httpx
import pytest
from helpers import ALL_APIS, NOW, body_of, drive, failed_read, image, prepare, refused, reply, submit, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import Uncertain
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
def test_a_request_that_is_not_json_is_refused(name: str) -> None:
    values = (datetime(2026, 1, 1), {1, 2}, b"x", math.nan, math.inf, object(), "\ud800")
    for wrong in (video("\ud83c"), *(video(extra_params={"beta": [value]}) for value in values)):
        refused(name, wrong, "cannot be written as JSON")


def nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


HOLDS_ITSELF: list[Any] = []
HOLDS_ITSELF += [HOLDS_ITSELF, HOLDS_ITSELF]


def test_a_request_that_is_nested_too_deep_is_refused() -> None:
    for name, value in [
        *[(name, nested(65)) for name in ALL_APIS],
        *[("ark", value) for value in (nested(600), nested(100_000), HOLDS_ITSELF)],
    ]:
        for wrong in (
            {"extra_params": {"beta": value}},
            {"images": [value]},
            {"images": [{"url": "https://a.example/b.png", "role": value}]},
            {"duration": [value]},
            {"model": [value]},
            {"prompt": [value]},
        ):
            refused(name, video(**wrong), "deeper than 64 levels")


@pytest.mark.parametrize("name", ALL_APIS)
def test_the_deepest_permitted_request_has_a_fingerprint(name: str) -> None:
    found = prepare(name, video(extra_params={"beta": nested(63)}))
    assert Fingerprint.of(found.as_requested, api=name, base_url="x").arguments["extra_params"]


@pytest.mark.parametrize("name", ALL_APIS)
def test_a_model_other_than_text_is_refused(name: str) -> None:
    for model in ({"a": 1}, ["seedance-2.0"], 5, True, b"seedance-2.0"):
        refused(name, video(model=model), "model=", " is not accepted: ", " takes ")


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
    refused(name, request, "media_hosts")
    assert prepare(name, request, media_hosts=MediaHosts.parse(["minio:9000"])).request.images


@pytest.mark.parametrize("name", ["seedanceapi-v1", "seedanceapi-v2", "openrouter"])
def test_three_services_make_no_images(name: str) -> None:
    refused(name, image(), "makes videos only", "api makes images")


@pytest.mark.parametrize("name", ALL_APIS)
def test_a_2xx_that_tells_no_state_is_trouble_not_a_state(name: str) -> None:
    for body in (b"", b"<html>", b"[]", b"null", b"{}", b'{"ok": true}', b'{"data": {}}'):
        error = failed_read(name, reply(200, body))
        assert type(error) is errors.SeedanceServerError
        assert (error.generation_id, error.retry_helps) == ("g1", True)


@pytest.mark.parametrize("name", ALL_APIS)
def test_a_read_that_is_refused_for_an_unknown_reason_may_be_repeated(name: str) -> None:
    body = {
        "seedance2api": {"status": "error", "error": {"code": "ODD", "message": "m"}},
        "ark": {"error": {"code": "Odd", "message": "m"}},
        "runbase": {"error": "m"},
    }.get(name, {"code": "ODD", "message": "m"})
    assert type(failed_read(name, reply(200, body))) is errors.SeedanceServerError


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
def test_a_reply_about_another_generation_is_not_delivered(name: str) -> None:
    for body in (about(name, id="other"), about(name, task_id="other")):
        for answer in (body, {"data": body}):
            error = failed_read(name, reply(200, answer))
            assert "is about another generation" in error.message
            assert (type(error), error.generation_id) == (errors.SeedanceServerError, "g1")


@pytest.mark.parametrize("name", ["seedance2api", "seedanceapi-v1", "seedanceapi-v2", "runbase"])
def test_a_reply_about_the_right_generation_or_without_an_id_is_delivered(name: str) -> None:
    for ids in ({}, {"id": None}, {"id": 17}, {"task_id": "17"}, {"id": "req-5", "task_id": 17}):
        generation, _ = drive(get_api(name).status_flow("17", "video", NOW), [reply(200, about(name, **ids))])
        assert generation.generation_id == "17"
        assert generation.urls == ("https://cdn.example.com/1.mp4",)


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize(
    ("status", "cls", "helps"),
    [
        (400, errors.SeedanceRequestError, False),
        (422, errors.SeedanceRequestError, False),
        (401, errors.SeedanceAuthenticationError, False),
        (402, errors.SeedanceInsufficientCreditsError, False),
        (403, errors.SeedanceForbiddenError, False),
        (404, errors.SeedanceNotFoundError, False),
        (408, errors.SeedanceServerError, True),
        (425, errors.SeedanceServerError, True),
        (429, errors.SeedanceRateLimitError, True),
        (500, errors.SeedanceServerError, True),
        (502, errors.SeedanceServerError, True),
        (503, errors.SeedanceServerError, True),
        (504, errors.SeedanceServerError, True),
    ],
)
def test_on_a_read_the_http_status_says_what_it_says(name: str, status: int, cls: type, helps: bool) -> None:
    """Row 25 of the contradictions: one map of statuses, for any code."""
    codes = [
        "InvalidEndpointOrModel.NotFound",
        "AccountOverdueError",
        "SENSITIVE_CONTENT",
        "AuthenticationError",
    ]
    for code in (None, *codes) if status in (401, 404, 429, 500, 503) else (None,):
        body = {"status": "error", "code": code, "error": {"code": code, "message": "m"}} if code else b"no"
        error = failed_read(name, reply(status, body))
        assert (type(error), error.retry_helps, error.vendor_code) == (cls, helps, code)
        assert (error.http_status, error.generation_id, error.method) == (status, "g1", "GET")


def test_codes_refine_what_a_status_leaves_open() -> None:
    for status, code, cls in [
        (403, "AccountOverdueError", errors.SeedanceInsufficientCreditsError),
        (400, "InputTextSensitiveContentDetected", errors.SeedanceModerationError),
    ]:
        assert type(failed_read("ark", reply(status, {"error": {"code": code}}))) is cls


@pytest.mark.parametrize("name", ["seedance2api", "runbase", "ark", "fal", "replicate"])
def test_an_id_of_dots_stays_in_its_place(name: str) -> None:
    api = get_api(name)
    for generation_id in (".", "..", "..."):
        url = httpx.URL(api.default_base_url + api.status_call(generation_id).path)
        assert url.raw_path.decode().removesuffix("/status").endswith("/" + "%2E" * len(generation_id))


@pytest.mark.parametrize("name", ALL_APIS)
def test_an_id_that_no_url_can_carry_is_none(name: str) -> None:
    body = {"id": "\ud800", "task_id": "a\udfff"}
    assert get_api(name).find_id(body) is None
    assert isinstance(submit(name, reply(200, body)), Uncertain)
