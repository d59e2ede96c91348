"""Replies of the emulated ModelArk against recorded ones, and against the estimate of the package."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.emulator.models import MediaSpec
from airflow_provider_seedance.generations import VideoRequest
from emulator.vendor import ARK_TASKS, Time, Vendor, Vendors

MODELS = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "doubao-seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
)
RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")


def create(ark: Vendor, model: str, resolution: str, ratio: str = "16:9", **length: int) -> dict[str, Any]:
    body = {"model": model, "resolution": resolution, "ratio": ratio, **length}
    created = ark.post(ARK_TASKS, {**body, "content": [{"type": "text", "text": "a red kite"}]})
    task: dict[str, Any] = ark.status(ark.id_of(created)).json()
    return task


def test_tokens_are_those_of_recorded_tasks(ark: Vendor) -> None:
    for model, resolution, length, tokens in [
        (MODELS[0], "480p", {"duration": 4}, 38_830),
        (MODELS[0], "720p", {"duration": 5}, 108_900),
        (MODELS[1], "480p", {"duration": 4}, 40_594),
        (MODELS[1], "1080p", {"duration": 5}, 245_025),
        (MODELS[4], "720p", {"frames": 29}, 1248 * 704 * 29 // 1024),
    ]:
        task = create(ark, model, resolution, **length)
        assert task["usage"] == {"completion_tokens": tokens, "total_tokens": tokens}


def test_the_estimate_has_the_tokens_of_the_reply(ark: Vendor) -> None:
    for model in MODELS:
        for resolution in ("480p", "720p") if "fast" in model else ("480p", "720p", "1080p"):
            for ratio in RATIOS:
                request = VideoRequest(
                    prompt="a red kite", model=model, resolution=resolution, aspect_ratio=ratio, duration=4
                )
                billed = create(ark, model, resolution, ratio, duration=4)["usage"]["total_tokens"]
                assert get_api("ark").price(request).output_tokens == billed, (resolution, ratio)


def test_files_are_encoded_with_the_recorded_pixels(serve: Vendors, encoded: list[MediaSpec]) -> None:
    ark = serve("ark", media=True)
    for model, ratio, size in (
        (MODELS[0], "16:9", (854, 480)),
        (MODELS[1], "9:16", (496, 864)),
        (MODELS[4], "1:1", (640, 640)),
    ):
        ark.http.get(create(ark, model, "480p", ratio, duration=4)["content"]["video_url"])
        assert (encoded[-1].width, encoded[-1].height) == size


def test_a_file_has_the_recorded_pixels(serve: Vendors) -> None:
    av = pytest.importorskip("av")
    ark = serve("ark", media=True)
    task = create(ark, MODELS[1], "480p", "9:16", duration=4)
    with av.open(io.BytesIO(ark.http.get(task["content"]["video_url"]).content)) as container:
        [video] = container.streams.video
        assert (video.width, video.height, video.frames) == (496, 864, 97)
        assert video.width * video.height * video.frames // 1024 == task["usage"]["total_tokens"]


def test_an_id_has_the_time_of_the_service(serve: Vendors, time: Time) -> None:
    # A recorded pair: cgt-20250331175019-…, created_at 1743414619.
    time.now = 1_743_414_619.0
    assert re.fullmatch(r"cgt-20250331175019-[a-z0-9]{5}", serve("ark", clock=time).submit_id())


def test_an_error_names_the_id_of_its_request(ark: Vendor) -> None:
    reply = ark.status("cgt-20250331175019-68d9t")
    request_id = reply.headers["x-request-id"]
    assert re.fullmatch(r"02[0-9]{13}[0-9a-f]{38}", request_id)
    assert reply.json()["error"]["message"].endswith(f"Request id: {request_id}")


def test_a_pending_task_has_no_result(serve: Vendors) -> None:
    ark = serve("ark", render_seconds=1000)
    task_id = ark.submit_id()
    absent = {"seed", "ratio", "resolution", "duration", "framespersecond", "content", "usage"}
    assert not absent & set(ark.status(task_id).json())
    ark.emulator.fail(task_id, "no", code="InternalServiceError")
    assert not absent & set(ark.status(task_id).json())
    assert ark.status(task_id).headers["x-request-id"]
