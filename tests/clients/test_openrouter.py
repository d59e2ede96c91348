"""The service's own client, `openrouter`, against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

openrouter = pytest.importorskip("openrouter")

KEY = "sk-or-key"
MODEL = "bytedance/seedance-2.0"


@pytest.fixture
def videos(emulator: SeedanceEmulator) -> Iterator[Any]:
    with openrouter.OpenRouter(api_key=KEY, server_url=emulator.base_url("openrouter")) as client:
        yield client.video_generation


def test_a_video(videos: Any, emulator: SeedanceEmulator) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}}
    frames = [{**picture, "frame_type": "first_frame"}]
    made = videos.generate(model=MODEL, prompt="a kite", duration=5, resolution="4K", frame_images=frames)
    assert made.status == "pending"
    emulator.finish(made.id)
    done = videos.get_generation(job_id=made.id)
    assert (done.status, done.usage.cost > 0) == ("completed", True)
    assert done.urls[0].startswith(emulator.url)
    assert b"ftyp" in videos.get_video_content(job_id=made.id).read()
    failing = videos.generate(model=MODEL, prompt="a kite")
    emulator.fail(failing.id, "too windy")
    assert videos.get_generation(job_id=failing.id).error == "too windy"


def test_models_and_refusals(videos: Any, emulator: SeedanceEmulator) -> None:
    found = {model.id: model for model in videos.list_videos_models().data}
    assert found[MODEL].supported_durations == list(range(4, 16))
    assert found[f"{MODEL}-fast"].supported_resolutions == ["480p", "720p"]
    with pytest.raises(openrouter.errors.BadRequestResponseError, match="duration"):
        videos.generate(model=MODEL, prompt="a kite", duration=40)
    with pytest.raises(openrouter.errors.NotFoundResponseError):
        videos.get_generation(job_id="no-such")
    assert emulator.ledger.submissions == []
