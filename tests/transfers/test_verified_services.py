"""Files of every emulated service, from the operator that requests them to the look of the transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import make
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator
from transfers.results import run

#: Arguments that each service takes, with a sound track where it has one.
VIDEOS: dict[str, dict[str, Any]] = {
    "seedance2api": {"duration": 5, "resolution": "720p"},
    "seedanceapi-v1": {"duration": 4, "resolution": "480p", "aspect_ratio": "1:1", "generate_audio": True},
    "seedanceapi-v2": {"duration": 5, "resolution": "480p", "aspect_ratio": "16:9"},
    "runbase": {"duration": 4, "resolution": "480p", "aspect_ratio": "4:3", "generate_audio": True},
    "ark": {"duration": 4, "resolution": "480p", "aspect_ratio": "21:9", "return_last_frame": True},
    "fal": {"duration": 4, "resolution": "480p", "aspect_ratio": "16:9", "generate_audio": True},
    "replicate": {"duration": 5, "resolution": "480p", "aspect_ratio": "3:4"},
}


@pytest.fixture
def emulator_options() -> dict[str, Any]:
    return {"media": True}


def deliver(operator: Any) -> Any:
    return operator.execute(make_context(Store(), TaskInstance()))


@pytest.mark.parametrize("api", VIDEOS)
def test_no_false_alarm_on_videos(api: str, connect: Callable[..., None], tmp_path: Path) -> None:
    connect(api)
    made = deliver(make(deferrable=False, **VIDEOS[api]))
    done = run(made, f"{tmp_path}/", verify="fail")
    suffixes = [".mp4", ".jpeg"] if api == "ark" else [".mp4"]
    assert [Path(path).suffix for path in done["paths"]] == suffixes
    assert done["problems"] == []


@pytest.mark.parametrize("api", ["seedance2api", "ark", "fal", "replicate"])
def test_no_false_alarm_on_images(api: str, connect: Callable[..., None], tmp_path: Path) -> None:
    connect(api)
    operator = SeedreamGenerateImageOperator(task_id="image", prompt="A lamp", num_images=2, deferrable=False)
    assert run(deliver(operator), f"{tmp_path}/", verify="fail")["problems"] == []


def test_file_of_another_request(connect: Callable[..., None], tmp_path: Path) -> None:
    connect("seedanceapi-v1")
    silent = deliver(make(deferrable=False, **{**VIDEOS["seedanceapi-v1"], "generate_audio": False}))
    loud = {**silent, "request": {"duration": 12, "aspect_ratio": "16:9", "generate_audio": True}}
    with pytest.raises(errors.SeedanceMediaRejectedError) as caught:
        run(loud, f"{tmp_path}/", verify="fail")
    for problem in ("12 s were requested", "16:9 was requested", "it is silent"):
        assert problem in str(caught.value)
