"""What the services share beside the fates of a submission: the registry, preparing, plain reads."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest
from helpers import ALL_APIS, NOW, body_of, drive, image, prepare, reply, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import DEFAULT_API, get_api
from airflow_provider_seedance.urls import MediaHosts


def test_the_registry() -> None:
    assert ALL_APIS == ("seedance2api", "seedanceapi-v1", "seedanceapi-v2", "runbase", "ark")
    assert DEFAULT_API == "seedanceapi-v2"
    for name in ALL_APIS:
        assert get_api(name).name == name
    for name in ("Ark", "", None, 5, ["ark"]):
        with pytest.raises(errors.SeedanceConfigurationError, match="this package knows seedance2api"):
            get_api(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL_APIS)
@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1), {1, 2}, b"x", math.nan, math.inf, object(), "\ud800"], ids=repr
)
def test_what_cannot_be_written_as_json_is_refused_before_anything_is_recorded(name: str, value: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="cannot be written as JSON"):
        prepare(name, video(extra_params={"beta": [value]}))


@pytest.mark.parametrize("name", ALL_APIS)
def test_a_prompt_of_half_characters_is_refused(name: str) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="cannot be written as JSON"):
        prepare(name, video("\ud83c"))


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
    assert prepare(name, request, hosts=MediaHosts.parse(["minio:9000"])).request.images


@pytest.mark.parametrize("name", ["seedanceapi-v1", "seedanceapi-v2", "runbase"])
def test_three_services_make_no_images(name: str) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="Choose a connection whose api makes images"):
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
