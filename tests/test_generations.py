"""Requests as they are tidied, and generations as they become results."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
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

#: Keys of a result, in their order.
KEYS = (
    *("generation_id", "api", "media", "status", "model", "url", "urls", "duration", "resolution", "credits"),
    *(
        "cost_usd",
        "created_at",
        "completed_at",
        "expires_at",
        "seed",
        "aspect_ratio",
        "fps",
        "last_frame_url",
    ),
    *("usage", "reused_from"),
)

RESULT: dict[str, Any] = {
    **dict.fromkeys(KEYS),
    "generation_id": "g1",
    "api": "seedance2api",
    "media": "image",
    "status": "succeeded",
    "model": "seedream-4.5",
    "url": A,
    "urls": [A, B],
    "resolution": "4k",
    "created_at": "2026-02-07T10:30:00+00:00",
}


def test_empty_results_of_templates_count_as_not_given() -> None:
    for leftover in [None, "", "  ", "None", " None "]:
        for kind in (VideoRequest, ImageRequest):
            names = [field.name for field in dataclasses.fields(kind) if field.name != "prompt"]
            assert kind(prompt="p", **dict.fromkeys(names, leftover)).arguments() == {"prompt": "p"}


def check_tidied(make: Callable[..., Any], names: tuple[str, ...], cases: list[tuple[Any, Any]]) -> None:
    for name in names:
        for given, kept in cases:
            value = getattr(make(**{name: given}), name)
            assert (value, type(value)) == (kept, type(kept)), f"{name}={given!r}"


def test_numbers_and_flags_written_as_text() -> None:
    numbers: list[tuple[Any, Any]] = [("8", 8), (" 8 ", 8), ("8.0", 8), (8.0, 8), ("8.5", 8.5)]
    numbers += [("12345678901234567891", 12345678901234567891)]
    numbers += [(other, other) for other in ("eight", "8s", True, [8])]
    check_tidied(video, ("duration", "fps", "seed"), numbers)
    check_tidied(image, ("num_images", "seed"), numbers)
    flags = [("true", True), ("False", False), (" TRUE ", True), (True, True), ("yes", "yes"), (1, 1)]
    check_tidied(video, ("generate_audio", "fixed_lens"), flags)


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


def test_text_is_read_only_if_it_is_a_value() -> None:
    for given in ["[not a list", "{[]: 1}", "[" * 5000, "{'a': __import__('os')}"]:
        assert video(images=given).images == (MediaInput(url=given),)
        assert video(extra_params=given).extra_params == given
    assert video(extra_params='{"a": [1]}').extra_params == {"a": [1]}
    assert video(extra_params="{'a': None}").extra_params == {"a": None}
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
SECOND = timedelta(seconds=1)


def generation(**changes: Any) -> Generation:
    base = {"generation_id": "g1", "api": "ark", "media": "video", "status": GenerationStatus.SUCCEEDED}
    return Generation(**{**base, **changes})


def test_a_result_has_its_keys_in_order_and_is_read_back() -> None:
    assert tuple(generation().result()) == KEYS
    assert generation(urls=(A, B)).result()["url"] == A
    assert generation().result()["url"] is None
    output = {"id": "i", "format": "png", "width": 2048, "height": 1024, "size_bytes": 5}
    details = {"outputs": [output, dict.fromkeys(output)], "usage": {"processing_seconds": 2.5}}
    for result in (RESULT, RESULT | details):
        assert Generation.from_result(result).result() == result


def test_times_are_iso_8601_in_utc() -> None:
    offset = datetime.fromisoformat("2026-02-07T12:30:00+02:00")
    assert generation(created_at=offset).result()["created_at"] == "2026-02-07T10:30:00+00:00"
    assert iso(None) is None


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


def test_when_an_output_is_gone() -> None:
    gone = [{}, {"urls": (A,), "expires_at": MOMENT}, {"urls": (A,), "expires_at": MOMENT - SECOND}]
    assert [generation(**changes).output_gone(MOMENT) for changes in gone] == [True] * 3
    kept = [{"urls": (A,)}, {"urls": (A,), "expires_at": MOMENT + SECOND}]
    kept += [{"status": GenerationStatus.RUNNING}, {"status": GenerationStatus.FAILED}]
    assert [generation(**changes).output_gone(MOMENT) for changes in kept] == [False] * 4


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
    terminal = {status.value for status in GenerationStatus if status.terminal}
    assert terminal == {"succeeded", "failed", "cancelled", "expired"}


def test_reading_times() -> None:
    for value in (
        "2026-02-07T10:30:00Z",
        "2026-02-07T12:30:00+02:00",
        "2026-02-07T10:30:00",
        1770460200,
        1770460200.0,
    ):
        assert read_time(value) == MOMENT
    for value in ("", "soon", "P1D", None, True, [], math.nan, math.inf, 10**400, 1770460200000000):
        assert read_time(value) is None


def test_reading_numbers() -> None:
    for value, number in [(28, 28), ("28", 28), (0.5, 0.5), ("0.5", 0.5), (0, 0)]:
        assert read_number(value) == number
    for value in (True, "x", None, math.nan, "inf", 10**400, {}):
        assert read_number(value) is None
