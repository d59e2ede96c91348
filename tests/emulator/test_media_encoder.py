from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.emulator.media_store import MediaStore
from airflow_provider_seedance.emulator.models import MediaSpec, frame_size
from airflow_provider_seedance.emulator.placeholder_media import TINY_FILES, TINY_MP4

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

from airflow_provider_seedance.emulator.media_encoder import encode_image, encode_video  # noqa: E402  (it needs both)


@pytest.fixture
def store() -> Iterator[MediaStore]:
    made = MediaStore()
    yield made
    made.close()


def video(**changes: Any) -> MediaSpec:
    fields = {"kind": "video", "prompt": "a red kite", "width": 320, "height": 180, "seconds": 2.0, **changes}
    return MediaSpec(**fields)


def test_frame_size() -> None:
    for resolution, ratio, size in [
        ("720p", "16:9", (1280, 720)),
        ("720p", "9:16", (720, 1280)),
        ("480p", "16:9", (854, 480)),
        ("1080p", "1:1", (1080, 1080)),
        ("720p", "21:9", (1680, 720)),
        ("480p", "9:21", (480, 1120)),
        ("4k", "16:9", (3840, 2160)),
    ]:
        assert frame_size(resolution, ratio) == size
        assert all(side % 2 == 0 for side in size)


@pytest.mark.parametrize(
    "spec",
    [
        video(width=1280, height=720, seconds=1.0, audio=True),
        video(width=180, height=320, fps=60),
        video(fps=30, seconds=29 / 24, audio=True),
        video(format="mov"),
    ],
    ids=["720p", "portrait60", "fraction", "mov"],
)
def test_a_video_has_the_requested_format(spec: MediaSpec, tmp_path: Path) -> None:
    path = tmp_path / f"video.{spec.format}"
    encode_video(spec, path)
    with av.open(path) as container:
        [stream] = container.streams.video
        assert (stream.width, stream.height) == (spec.width, spec.height)
        assert stream.average_rate == spec.fps
        assert stream.pix_fmt == "yuv420p"
        assert float(stream.duration * stream.time_base) == pytest.approx(spec.seconds, abs=1 / spec.fps)
        sounds = [(s.codec_context.name, s.codec_context.layout.nb_channels) for s in container.streams.audio]
        assert sounds == ([("aac", 2)] if spec.audio else [])
        assert container.metadata["title"] == spec.prompt
        assert sum(1 for _ in container.decode(video=0)) == round(spec.seconds * spec.fps)
    if spec.audio:
        with av.open(path) as container:
            [sound] = container.streams.audio
            assert float(sound.duration * sound.time_base) == pytest.approx(spec.seconds, abs=0.05)
            assert any(any(bytes(frame.planes[0])) for frame in container.decode(sound)), "silent"


def test_the_picture_moves_and_holds_the_prompt(tmp_path: Path) -> None:
    encode_video(video(prompt="a red kite"), tmp_path / "a.mp4")
    encode_video(video(prompt="a blue whale"), tmp_path / "b.mp4")
    frames = {}
    for name in "ab":
        with av.open(tmp_path / f"{name}.mp4") as container:
            frames[name] = [frame.to_image() for frame in container.decode(video=0)]
    assert frames["a"][0].tobytes() != frames["a"][-1].tobytes()
    assert frames["a"][0].tobytes() != frames["b"][0].tobytes()


def test_it_plays_while_it_downloads(tmp_path: Path) -> None:
    encode_video(video(), tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_any_prompt_can_be_drawn(tmp_path: Path) -> None:
    for prompt in ["", "x" * 2000, "ünïcödé 日本", "many words " * 180, "two\nlines"]:
        path = tmp_path / "image.png"
        encode_image(MediaSpec(kind="image", prompt=prompt, width=256, height=200, format="png"), path)
        with Image.open(path) as image:
            assert image.size == (256, 200)
            assert len(image.getcolors(100_000)) > 1


def test_image_formats(store: MediaStore) -> None:
    for form, magic in [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8")]:
        file = store.file(MediaSpec(kind="image", prompt="kite", width=64, height=64, format=form))
        assert file.path.read_bytes().startswith(magic)
        assert file.content_type == f"image/{form}"
        assert file.size == file.path.stat().st_size


def test_a_file_is_made_once(store: MediaStore) -> None:
    assert store.file(video(seconds=1.0)) is store.file(video(seconds=1.0))
    assert store.file(video(seconds=1.0, variant=1)).etag != store.file(video(seconds=1.0)).etag


def test_files_are_removed_with_the_store(store: MediaStore) -> None:
    path = store.file(video(seconds=1.0)).path
    store.close()
    assert not path.exists()


def test_without_codecs_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"airflow-provider-seedance\[emulator\]"):
        MediaStore()
    store = MediaStore(real=False)
    assert store.file(video()).path.read_bytes() == TINY_MP4
    assert store.file(MediaSpec(kind="image", prompt="", width=9, height=9, format="png")).content_type == (
        "image/png"
    )
    store.close()


def test_the_tiny_files_are_valid() -> None:
    with av.open(io.BytesIO(TINY_MP4)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    for kind in ("png", "jpeg"):
        with warnings.catch_warnings(), Image.open(io.BytesIO(TINY_FILES[kind])) as image:
            assert (image.size, image.format) == ((2, 2), kind.upper())
