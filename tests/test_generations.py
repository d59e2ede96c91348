"""Requests as they are tidied, and generations as they become results."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers import image, video

from airflow_provider_seedance.costs.pricing import ResultDefaults
from airflow_provider_seedance.exceptions import SeedanceRequestError
from airflow_provider_seedance.generations import (
    Generation,
    GenerationStatus,
    ImageRequest,
    VideoRequest,
    iso,
    read_number,
    read_time,
)
from airflow_provider_seedance.urls import MediaInput

A, B = "https://example.com/a.png", "https://example.com/b.png"

RESULT = {
    "generation_id": "g1",
    "api": "seedance2api",
    "media": "image",
    "status": "succeeded",
    "model": "seedream-4.5",
    "url": A,
    "urls": [A, B],
    "duration": None,
    "resolution": "4k",
    "credits": None,
    "cost_usd": None,
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


def test_empty_results_of_templates_count_as_not_given() -> None:
    for leftover in [None, "", "  ", "None", " None "]:
        names = [field.name for field in dataclasses.fields(VideoRequest) if field.name != "prompt"]
        assert VideoRequest(prompt="p", **dict.fromkeys(names, leftover)).arguments() == {"prompt": "p"}
        names = [field.name for field in dataclasses.fields(ImageRequest) if field.name != "prompt"]
        assert ImageRequest(prompt="p", **dict.fromkeys(names, leftover)).arguments() == {"prompt": "p"}


def test_numbers_written_as_text_are_numbers() -> None:
    for given, kept in [
        ("8", 8),
        (" 8 ", 8),
        ("8.0", 8),
        (8.0, 8),
        ("8.5", 8.5),
        ("12345678901234567891", 12345678901234567891),
        ("eight", "eight"),
        ("8s", "8s"),
        (True, True),
        ([8], [8]),
    ]:
        for name in ("duration", "fps", "seed"):
            value = getattr(video(**{name: given}), name)
            assert value == kept
            assert type(value) is type(kept)
        for name in ("num_images", "seed"):
            assert getattr(image(**{name: given}), name) == kept


def test_flags_written_as_text_are_flags() -> None:
    for given, kept in [
        ("true", True),
        ("False", False),
        (" TRUE ", True),
        (True, True),
        ("yes", "yes"),
        (1, 1),
    ]:
        for name in ("generate_audio", "fixed_lens"):
            value = getattr(video(**{name: given}), name)
            assert value == kept
            assert type(value) is type(kept)


def test_images_in_every_form() -> None:
    for given, kept in [
        (A, [MediaInput(url=A)]),
        (f" {A}\n", [MediaInput(url=A)]),
        ([A, B], [MediaInput(url=A), MediaInput(url=B)]),
        ((A,), [MediaInput(url=A)]),
        ((url for url in (A, B)), [MediaInput(url=A), MediaInput(url=B)]),
        (json.dumps([A, B]), [MediaInput(url=A), MediaInput(url=B)]),
        (str([A, B]), [MediaInput(url=A), MediaInput(url=B)]),
        ({"url": A, "role": "first_frame"}, [MediaInput(url=A, role="first_frame")]),
        ({"url": f" {A} "}, [MediaInput(url=A)]),
        ([{"url": A}, B], [MediaInput(url=A), MediaInput(url=B)]),
        (json.dumps({"url": A, "role": "last_frame"}), [MediaInput(url=A, role="last_frame")]),
        ({"draft_task": "cgt-1"}, [MediaInput(url="cgt-1", role="draft_task")]),
        (MediaInput(url=A), [MediaInput(url=A)]),
        (RESULT, [MediaInput(url=A), MediaInput(url=B)]),
        ([RESULT, A], [MediaInput(url=A), MediaInput(url=B), MediaInput(url=A)]),
        (str(RESULT), [MediaInput(url=A), MediaInput(url=B)]),
        (json.dumps(RESULT), [MediaInput(url=A), MediaInput(url=B)]),
    ]:
        assert video(images=given).images == tuple(kept)


def test_no_images_are_none() -> None:
    for given in [[], (), "[]", {}, iter(()), None, "", 0]:
        assert video(images=given).images is None


def test_images_that_cannot_be_read_stay_to_be_refused() -> None:
    for given in [5, [5], [None], {"href": A}, {**RESULT, "urls": []}, {**RESULT, "urls": None}, {"url": 5}]:
        images = video(images=given).images
        assert images
        assert not any(isinstance(item, MediaInput) for item in images)


def test_text_that_only_looks_like_a_list_stays_text() -> None:
    for given in ["[not a list", "{[]: 1}", "[" * 5000, "{'a': __import__('os')}"]:
        assert video(images=given).images == (MediaInput(url=given),)
        assert video(extra_params=given).extra_params == given


def test_extra_params_may_be_text() -> None:
    assert video(extra_params='{"a": [1]}').extra_params == {"a": [1]}
    assert video(extra_params="{'a': None}").extra_params == {"a": None}


def test_the_prompt_is_left_alone() -> None:
    for prompt in (" [1] ", "None", "{'a': 1}", "8"):
        assert video(prompt).prompt == prompt


def test_a_tidied_request_stays_as_it_is() -> None:
    request = video(images=[A, {"url": B, "role": "last_frame"}], duration="8")
    assert dataclasses.replace(request) == request
    assert request.with_default(duration=4) is request
    changed = request.with_default(resolution="720p", duration=4)
    assert changed.arguments() == {**request.arguments(), "resolution": "720p"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.duration = 4  # type: ignore[misc]


def test_requests_from_arguments() -> None:
    assert VideoRequest.from_arguments({"prompt": "p", "duration": "8"}) == video("p", duration=8)
    with pytest.raises(SeedanceRequestError, match="no request argument lens, style; video requests take"):
        VideoRequest.from_arguments({"prompt": "p", "style": "x", "lens": 1})
    with pytest.raises(SeedanceRequestError, match="image request needs a prompt"):
        ImageRequest.from_arguments({})


# ---------------------------------------------------------------------- generations

MOMENT = datetime(2026, 2, 7, 10, 30, tzinfo=UTC)


def generation(**changes: Any) -> Generation:
    base = {"generation_id": "g1", "api": "ark", "media": "video", "status": GenerationStatus.SUCCEEDED}
    return Generation(**{**base, **changes})


def test_the_keys_of_a_result_and_their_order() -> None:
    assert list(generation().result()) == list(RESULT)
    assert generation(urls=(A, B)).result()["url"] == A
    assert generation().result()["url"] is None


def test_times_are_iso_8601_in_utc() -> None:
    offset = datetime.fromisoformat("2026-02-07T12:30:00+02:00")
    assert generation(created_at=offset).result()["created_at"] == "2026-02-07T10:30:00+00:00"
    assert iso(None) is None


def test_a_result_is_read_back() -> None:
    assert Generation.from_result(RESULT).result() == RESULT


def test_anything_else_is_not_a_result() -> None:
    for value in [
        None, [], "g1", {}, {**RESULT, "urls": "x"}, {**RESULT, "urls": [1]}, {**RESULT, "media": "sound"},
        {**RESULT, "generation_id": 5}, {**RESULT, "api": ["ark"]}, {**RESULT, "media": ["video"]},
        {key: value for key, value in RESULT.items() if key != "status"},
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="result"):
            Generation.from_result(value)


def test_invalid_numbers_in_a_result_are_left_out() -> None:
    for rubbish in ["abc", [1], {"a": 1}, True, math.nan, math.inf, "NaN", "1e999", 10**400]:
        for name in ("duration", "credits", "cost_usd"):
            read = Generation.from_result(
                {**RESULT, "duration": 5, "credits": 1.5, "cost_usd": 2, name: rubbish}
            )
            assert getattr(read, name) is None
            assert read.urls == (A, B)
            assert read.summary()
            json.dumps(read.result(), allow_nan=False)


def test_invalid_texts_in_a_result_are_left_out() -> None:
    for rubbish in [5, [1], {"a": 1}, True, math.nan]:
        names = ("model", "resolution", "aspect_ratio", "last_frame_url", "usage", "outputs")
        read = Generation.from_result({**RESULT, **dict.fromkeys(names, rubbish)})
        assert (read.model, read.resolution, read.urls) == (None, None, (A, B))
        assert (read.aspect_ratio, read.last_frame_url) == (None, None)
        outputs = [{"id": rubbish, "width": 1}, rubbish]
        output = Generation.from_result({**RESULT, "outputs": outputs}).outputs[0]
        assert output["width"] == 1
        assert isinstance(output["id"], str | None)


def test_details_of_the_outputs_survive_the_result() -> None:
    output = {"id": "i", "format": "png", "width": 2048, "height": 1024, "size_bytes": 5}
    result = {**RESULT, "outputs": [output, dict.fromkeys(output)], "usage": {"processing_seconds": 2.5}}
    assert Generation.from_result(result).result() == result


def test_when_an_output_is_gone() -> None:
    for changes, gone in [
        ({"urls": (A,)}, False),
        ({"urls": ()}, True),
        ({"urls": (A,), "expires_at": MOMENT}, True),
        ({"urls": (A,), "expires_at": MOMENT - timedelta(seconds=1)}, True),
        ({"urls": (A,), "expires_at": MOMENT + timedelta(seconds=1)}, False),
        ({"urls": (), "status": GenerationStatus.RUNNING}, False),
        ({"urls": (), "status": GenerationStatus.FAILED}, False),
    ]:
        assert generation(**changes).output_gone(MOMENT) is gone


def test_facts_of_the_request_fill_in_only_what_is_unknown() -> None:
    result_defaults = ResultDefaults(model="m", duration=8, credits=28).as_dict()
    assert result_defaults == {"model": "m", "duration": 8, "credits": 28}
    filled = generation(model="reported").with_defaults(
        {**result_defaults, "urls": ["x"], "status": "failed"}
    )
    assert (filled.model, filled.duration, filled.credits) == ("reported", 8, 28)
    assert (filled.urls, filled.status) == ((), GenerationStatus.SUCCEEDED)
    assert generation(credits=0).with_defaults({"credits": 28}).credits == 0


def test_which_statuses_are_terminal() -> None:
    assert {status.value for status in GenerationStatus if not status.terminal} == {"queued", "running"}
    assert {status.value for status in GenerationStatus if status.terminal} == {
        *("succeeded", "failed", "cancelled", "expired")
    }


def test_reading_times() -> None:
    for value, moment in [
        ("2026-02-07T10:30:00Z", MOMENT),
        ("2026-02-07T12:30:00+02:00", MOMENT),
        ("2026-02-07T10:30:00", MOMENT),
        (1770460200, MOMENT),
        (1770460200.0, MOMENT),
        *[(value, None) for value in ("", "soon", "P1D", None, True, [])],
        *[(value, None) for value in (float("nan"), float("inf"), 10**400, 1770460200000000)],
    ]:
        assert read_time(value) == moment


def test_reading_numbers() -> None:
    for value, number in [
        (28, 28),
        ("28", 28),
        (0.5, 0.5),
        ("0.5", 0.5),
        (0, 0),
        *[(value, None) for value in (True, "x", None, float("nan"), "inf", 10**400, {})],
    ]:
        assert read_number(value) == number
