"""Replies of the emulated ModelArk against recorded ones, and against the estimate of the package."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.models import MediaSpec
from airflow_provider_seedance.generations import VideoRequest
from emulator.vendor import ARK_TASKS, Vendor

MODELS = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "doubao-seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
)
RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
#: Model, resolution, ratio, seconds and the tokens of tasks that were billed.
RECORDED = [
    (MODELS[0], "480p", "16:9", 4, 38_830),
    (MODELS[0], "720p", "16:9", 5, 108_900),
    (MODELS[1], "480p", "16:9", 4, 40_594),
    (MODELS[1], "1080p", "16:9", 5, 245_025),
]


def create(ark: Vendor, model: str, resolution: str, ratio: str, seconds: int) -> dict[str, Any]:
    body = {"model": model, "resolution": resolution, "ratio": ratio, "duration": seconds}
    created = ark.post(ARK_TASKS, {**body, "content": [{"type": "text", "text": "a red kite"}]})
    task: dict[str, Any] = ark.status(created.raise_for_status().json()["id"]).json()
    return task


def test_tokens_are_those_of_recorded_tasks(ark: Vendor) -> None:
    for model, resolution, ratio, seconds, tokens in RECORDED:
        task = create(ark, model, resolution, ratio, seconds)
        assert task["usage"] == {"completion_tokens": tokens, "total_tokens": tokens}


def test_the_estimate_has_the_tokens_of_the_reply(ark: Vendor) -> None:
    for model in MODELS:
        for resolution in ("480p", "720p") if "fast" in model else ("480p", "720p", "1080p"):
            for ratio in RATIOS:
                request = VideoRequest(
                    prompt="a red kite", model=model, resolution=resolution, aspect_ratio=ratio, duration=4
                )
                billed = create(ark, model, resolution, ratio, 4)["usage"]["total_tokens"]
                assert get_api("ark").price(request).output_tokens == billed, (resolution, ratio)


def test_files_are_encoded_with_the_recorded_pixels(
    start: Callable[..., SeedanceEmulator], vendor: Callable[..., Vendor], encoded: list[MediaSpec]
) -> None:
    ark = vendor(start(media=True), "ark")
    for model, ratio, size in (
        (MODELS[0], "16:9", (854, 480)),
        (MODELS[1], "9:16", (496, 864)),
        (MODELS[4], "1:1", (640, 640)),
    ):
        ark.http.get(create(ark, model, "480p", ratio, 4)["content"]["video_url"])
        assert (encoded[-1].width, encoded[-1].height) == size


def test_a_file_has_the_recorded_pixels(
    start: Callable[..., SeedanceEmulator], vendor: Callable[..., Vendor]
) -> None:
    av = pytest.importorskip("av")
    ark = vendor(start(media=True), "ark")
    task = create(ark, MODELS[1], "480p", "9:16", 4)
    with av.open(io.BytesIO(ark.http.get(task["content"]["video_url"]).content)) as container:
        [video] = container.streams.video
        assert (video.width, video.height, video.frames) == (496, 864, 97)
        assert video.width * video.height * video.frames // 1024 == task["usage"]["total_tokens"]


def test_frames_are_billed_as_they_are(ark: Vendor) -> None:
    body = {"model": MODELS[4], "content": [{"type": "text", "text": "a red kite"}], "resolution": "720p"}
    task = ark.status(ark.post(ARK_TASKS, {**body, "frames": 29}).json()["id"]).json()
    assert task["usage"]["total_tokens"] == 1248 * 704 * 29 // 1024


def test_an_id_has_the_time_of_the_service(
    start: Callable[..., SeedanceEmulator], vendor: Callable[..., Vendor]
) -> None:
    # A recorded pair: cgt-20250331175019-…, created_at 1743414619.
    ark = vendor(start(clock=lambda: 1_743_414_619.0), "ark")
    assert re.fullmatch(r"cgt-20250331175019-[a-z0-9]{5}", ark.submit_id())


def test_an_error_names_the_id_of_its_request(ark: Vendor) -> None:
    reply = ark.status("cgt-20250331175019-68d9t")
    request_id = reply.headers["x-request-id"]
    assert re.fullmatch(r"02[0-9]{13}[0-9a-f]{38}", request_id)
    assert reply.json()["error"]["message"].endswith(f"Request id: {request_id}")
    assert ark.submit_id()


def test_a_pending_task_has_no_result(
    start: Callable[..., SeedanceEmulator], vendor: Callable[..., Vendor]
) -> None:
    emulator = start(render_seconds=1000)
    ark = vendor(emulator, "ark")
    task_id = ark.submit_id()
    absent = {"seed", "ratio", "resolution", "duration", "framespersecond", "content", "usage"}
    assert not absent & set(ark.status(task_id).json())
    emulator.fail(task_id, "no", code="InternalServiceError")
    assert not absent & set(ark.status(task_id).json())
    assert ark.status(task_id).headers["x-request-id"]
