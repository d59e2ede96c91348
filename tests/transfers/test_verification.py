"""Comparison of files with what was requested, and the videos that show or sound like nothing."""

from __future__ import annotations

import io
import zlib
from fractions import Fraction
from typing import Any

import av
import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.transfers import playback
from airflow_provider_seedance.transfers.verification import Expectation, inspect, read_verify
from transfers.results import sample, single


def problems(data: bytes, **expected: Any) -> tuple[str, ...]:
    """Return what is wrong with a file for a request of a video."""
    return inspect(io.BytesIO(data), len(data), Expectation(**{"media": "video", **expected})).problems


X264 = sample("x264-aac.mp4")  # 64 by 48, one second, with sound


@pytest.mark.parametrize(
    ("name", "expected", "problem"),
    [
        ("x264-aac.mp4", {"duration": 5}, "it is 1.00 s long, and 5 s were requested"),
        ("x264-aac.mp4", {"duration": 0.4}, "it is 1.00 s long, and 0.4 s were requested"),
        ("x264-aac.mp4", {"resolution": "720p"}, "it has 64x48 pixels, and 720p was requested"),
        ("x264-aac.mp4", {"resolution": "4k"}, "it has 64x48 pixels, and 4k was requested"),
        ("x264-aac.mp4", {"resolution": "48x64"}, "it has 64x48 pixels, and 48x64 was requested"),
        ("x264-aac.mp4", {"aspect_ratio": "16:9"}, "it has 64x48 pixels, and 16:9 was requested"),
        ("x264-aac.mp4", {"media": "image"}, "it is a mp4 file, and an image was requested"),
        (
            "x264-444.mp4",
            {"audio": True},
            "it is silent: it has no sound track, and sound was requested",
        ),
        ("ffmpeg.png", {"media": "image", "format": "jpeg"}, "it is a png file, and jpeg was requested"),
        ("ffmpeg.png", {}, "it is a png file, and a video was requested"),
    ],
)
def test_difference(name: str, expected: dict[str, Any], problem: str) -> None:
    assert problems(sample(name), **expected) == (problem,)


@pytest.mark.parametrize(
    "expected",
    [
        {"duration": 1.4},
        {"duration": -1},
        {"resolution": "50p"},
        {"resolution": "high"},
        {"resolution": "64x48"},
        {"aspect_ratio": "4:3"},
        {"aspect_ratio": "adaptive"},
        {"aspect_ratio": "0:0"},
        {"audio": True},
    ],
)
def test_accepted(expected: dict[str, Any]) -> None:
    assert problems(X264, **expected) == ()


def test_accepted_images() -> None:
    png = sample("ffmpeg.png")
    assert problems(png, media="image", format="png") == ()
    assert problems(png, media="image", resolution="1080p") == ()  # which means the size of a video
    assert problems(sample("ffmpeg.jpg"), media="image", format="jpg") == ()


#: Sizes of the services for a resolution, by the short side and by the number of pixels; and other sizes.
SIZES = {
    "480p": ("864x496 640x640 960x416 992x432", "1280x720"),
    "720p": ("1248x704 720x720 960x960 1504x640", "864x480 640x640"),
    "1080p": ("1920x1088 2176x928", "1280x720 960x960"),
    "2k": ("2560x1440 2048x2048", "3840x2160"),
    "4k": ("3840x2160 4096x4096", "1920x1080"),
}


@pytest.mark.parametrize("resolution", SIZES)
def test_sizes_by_resolution(resolution: str) -> None:
    accepted, refused = (sizes.split() for sizes in SIZES[resolution])
    data = bytearray(X264)
    at = data.index(b"tkhd") + 4 + 76
    for size in accepted + refused:
        width, height = (int(side) << 16 for side in size.split("x"))
        data[at : at + 8] = width.to_bytes(4) + height.to_bytes(4)
        assert (problems(bytes(data), resolution=resolution) == ()) is (size in accepted), size


@pytest.mark.parametrize(
    ("resolution", "accepted", "refused"),
    [
        ("4k", (4096, 4096), (2048, 2048)),
        ("3k", (4096, 2304), (2048, 2048)),
        ("1.5k", (1536, 1536), (1024, 1024)),
    ],
)
def test_k_of_an_image_is_a_number_of_pixels(
    resolution: str, accepted: tuple[int, int], refused: tuple[int, int]
) -> None:
    header = bytearray(sample("ffmpeg.png"))
    for width, height in (accepted, refused):
        header[16:24] = width.to_bytes(4) + height.to_bytes(4)
        header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
        found = problems(bytes(header), media="image", resolution=resolution)
        assert (found == ()) is ((width, height) == accepted)


# ---------------------------------------------------------------------- what is requested


def test_expectation_of_a_result() -> None:
    generation = Generation.from_result(
        single("https://x/v.mp4", request={"duration": 8, "generate_audio": True, "aspect_ratio": "16:9"})
    )
    assert Expectation.of(generation) == Expectation(
        media="video", duration=8, resolution="720p", aspect_ratio="16:9", audio=True
    )
    images = ("https://x/1.png", "https://x/2.png")
    group = single(*images, media="image", resolution="64x48", request={"num_images": 2})
    assert Expectation.of(Generation.from_result(group)).resolution is None
    group["request"]["resolution"] = "2k"
    assert Expectation.of(Generation.from_result(group)).resolution == "2k"
    odd = Generation.from_result(single("https://x/v.mp4", request={"duration": [], "generate_audio": "yes"}))
    assert Expectation.of(odd) == Expectation(media="video", resolution="720p")


def test_values_of_verify() -> None:
    assert [read_verify(value) for value in ("warn", "FAIL ", None, "None")] == ["warn", "fail", None, None]
    for value in ("yes", True, 1):
        with pytest.raises(
            errors.SeedanceConfigurationError, match=r"'warn', 'fail' or None\. Nothing was sent"
        ):
            read_verify(value)


# ---------------------------------------------------------------------- black, frozen, silent


def video(grey: Any, *, frames: int = 60, sound: bytes | None = None) -> bytes:
    """Return a video of 64 by 48 pixels whose frame ``n`` has the shade ``grey(n)``."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio: Any = container.add_stream("aac", rate=8000, layout="mono") if sound is not None else None
        for number in range(frames):
            frame: Any = av.VideoFrame(64, 48, "gray")  # type: ignore[attr-defined]
            plane = frame.planes[0]
            plane.update(bytes([grey(number)]) * plane.buffer_size)
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for number in range(20 if audio else 0):
            piece: Any = av.AudioFrame(format="s16", layout="mono", samples=800)  # type: ignore[attr-defined]
            piece.planes[0].update(sound * 800)
            piece.sample_rate, piece.pts, piece.time_base = 8000, 800 * number, Fraction(1, 8000)
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None) if audio else [])
    return file.getvalue()


def moving(number: int) -> int:
    return 50 + 3 * number


def test_black_and_frozen() -> None:
    assert problems(video(lambda number: 2)) == ("it is black",)
    assert problems(video(lambda number: 2 if number < 30 else moving(number))) == ()
    assert problems(video(lambda number: 128)) == ("it is frozen: all its frames are the same",)
    assert problems(video(lambda number: 128, frames=20)) == ()
    assert problems(video(moving)) == ()


def test_silent() -> None:
    loud, silent = video(moving, sound=b"\x00\x20"), video(moving, sound=b"\0\0")
    assert problems(loud, audio=True) == ()
    assert problems(silent, audio=True) == (
        "it is silent: sound was requested, and its sound track has none",
    )
    assert problems(silent) == ()


def test_frames_that_cannot_be_decoded() -> None:
    data = bytearray(sample("x264-aac-faststart.mp4"))
    start = data.index(b"mdat") + 40
    data[start:] = bytes(range(255, 155, -1)) * ((len(data) - start) // 100 + 1)
    assert problems(bytes(data))[0].startswith("it is damaged")


def test_huge_frames_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    assert problems(video(lambda number: 2)) == ()


def test_without_pyav_headers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert problems(video(lambda number: 2)) == ()
    assert problems(video(lambda number: 2), duration=9) == ("it is 2.50 s long, and 9 s were requested",)
