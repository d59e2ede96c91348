"""Files of all services: from a request to the format that is encoded."""

from __future__ import annotations

import io
from typing import Any

import pytest

from airflow_provider_seedance.emulator.models import MediaSpec
from emulator.vendor import ARK_TASKS, Vendors

Image = pytest.importorskip("PIL.Image")

KITE = "a red kite"
ARK = {"model": "seedance-1-5-pro-251215", "content": [{"type": "text", "text": KITE}]}
V1 = {"prompt": KITE, "resolution": "480p", "duration": "4"}


@pytest.mark.parametrize(
    ("api", "path", "body", "expected"),
    [
        ("seedance2api", "/seedance/generate", {"prompt": KITE, "model": "seedance-2.0", "duration": 5, "fps": 30},
         (1280, 720, 30, 5, False)),
        ("seedanceapi-v1", "/generate", {**V1, "aspect_ratio": "9:21", "generate_audio": True},
         (480, 1120, 24, 4, True)),
        ("seedanceapi-v2", "/generate", {"model": "seedance-2.0", "prompt": KITE, "duration": 5,
                                         "aspect_ratio": "3:4"}, (720, 960, 24, 5, False)),
        ("runbase", "/runs", {"model": "bytedance/seedance-1.5-pro",
                              "input": {"prompt": KITE, "resolution": "480p", "duration": "8",
                                        "generate_audio": True}}, (854, 480, 24, 8, True)),
        ("ark", ARK_TASKS, {**ARK, "resolution": "480p", "ratio": "1:1", "duration": 4}, (640, 640, 24, 4, True)),
    ],
    ids=["seedance2api", "v1", "v2", "runbase", "ark"],
)  # fmt: skip
def test_videos_have_the_requested_format(
    api: str,
    path: str,
    body: dict[str, Any],
    expected: tuple[int, int, int, float, bool],
    serve: Vendors,
    encoded: list[MediaSpec],
) -> None:
    client = serve(api, media=True)
    generation_id = client.id_of(client.post(path, body))
    status = client.status(generation_id)
    if api == "seedance2api":
        status = client.get(f"/results/{generation_id}")
    url = next(url for url in strings(status.json()) if "/_media/" in url)
    assert client.http.get(url).raise_for_status().content == b"encoded"
    [spec] = encoded
    width, height, fps, seconds, audio = expected
    assert (spec.width, spec.height, spec.fps, spec.audio) == (width, height, fps, audio)
    assert spec.seconds == pytest.approx(seconds, abs=0.1)


def test_images_are_pngs_of_the_size(serve: Vendors) -> None:
    client = serve("seedance2api", media=True)
    body = {"prompt": KITE, "model": "seedream-4.5", "resolution": "1024x1024"}
    [image] = client.post("/seedream/generate", body).json()["data"]["images"]
    data = client.http.get(image["url"]).content
    assert len(data) == image["size_bytes"]
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.size) == ("PNG", (1024, 1024))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []
