"""Arguments that BytePlus ModelArk and Volcengine Ark accept in combination, and the tokens that a video has."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import prepare, video

from airflow_provider_seedance import exceptions as errors

V25, V20, V15, V10 = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
)


def inputs(role: str, count: int = 1) -> list[dict[str, Any]]:
    return [{"url": f"https://example.com/{role}-{number}", "role": role} for number in range(count)]


def references(images: int, videos: int, sounds: int) -> list[dict[str, Any]]:
    counts = {"reference_image": images, "reference_video": videos, "reference_audio": sounds}
    return [item for role, count in counts.items() for item in inputs(role, count)]


FRAMES = [*inputs("first_frame"), *inputs("last_frame")]
PICTURE, CLIP, SOUND = (inputs(f"reference_{kind}") for kind in ("image", "video", "audio"))
DRAFT = [{"draft_task": "cgt-1"}]


def test_combinations_that_the_service_forbids_are_refused() -> None:
    for model, arguments, problem in [
        (V20, {"images": SOUND}, "reference_audio needs a reference_image"),
        *[(V15, {"images": given}, "this model takes none") for given in (PICTURE, CLIP)],
        (
            V20,
            {"images": inputs("reference_video", 4)},
            "4 of role reference_video were given; this model takes 3",
        ),
        (V20, {"images": [*PICTURE, *inputs("reference_audio", 4)]}, "4 of role reference_audio"),
        (V25, {"images": inputs("reference_video", 11)}, "this model takes 10"),
        *[
            (model, {"images": [*references(*counts)]}, problem)
            for model, counts, problem in [
                (V20, (10, 3, 3), "10 images were given"),
                (V20, (9, 4, 3), "4 of role reference_video"),
                (V20, (9, 3, 4), "4 of role reference_audio"),
                (V25, (31, 10, 10), "31 images were given"),
                (V25, (30, 11, 10), "11 of role reference_video"),
                (V25, (30, 10, 11), "11 of role reference_audio"),
            ]
        ],
        ("seedance-1-0-pro-fast-251015", {"images": FRAMES}, "takes no last_frame"),
        ("seedance-1-0-lite-t2v-250428", {"images": inputs("first_frame")}, "takes no first_frame"),
        (V10, {"aspect_ratio": "adaptive"}, "adaptive needs an image"),
        (V25, {"aspect_ratio": "16:9", "images": FRAMES}, "takes only adaptive"),
        (
            V25,
            {"duration": 5, "images": CLIP, "extra_params": {"omni_reference_task_type": "edit"}},
            "an edit takes only -1",
        ),
        *[
            (V25, {"images": DRAFT, name: value}, f"{name} cannot be given beside a draft_task")
            for name, value in {
                "prompt": "A lamp",
                "aspect_ratio": "16:9",
                "duration": 5,
                "seed": 1,
                "generate_audio": True,
            }.items()
        ],
        (V25, {"images": [*DRAFT, *PICTURE]}, "other images cannot be given"),
        (V25, {"images": DRAFT, "resolution": "720p"}, "in 1080p only"),
    ]:
        prompt = "" if "draft_task" in str(arguments.get("images")) else "A lamp"
        with pytest.raises(errors.SeedanceRequestError, match=problem):
            prepare("ark", video(**{"prompt": prompt, "model": model, **arguments}))


def test_combinations_that_the_service_documents_pass() -> None:
    for model, arguments in [
        (V20, {"images": [*PICTURE, *SOUND]}),
        (V20, {"images": [*PICTURE, {"url": "data:audio/mpeg;base64,AAAA", "role": "reference_audio"}]}),
        (V25, {"images": SOUND}),
        (V20, {"images": references(9, 3, 3)}),
        (V25, {"images": references(30, 10, 10)}),
        (V25, {"aspect_ratio": "adaptive", "images": FRAMES}),
        (V25, {"prompt": "", "images": DRAFT, "resolution": "1080p"}),
        (V25, {"prompt": "", "images": DRAFT, "watermark": True, "return_last_frame": True}),
        (V10, {"aspect_ratio": "adaptive", "images": FRAMES}),
        ("ep-1", {"images": inputs("reference_video", 20)}),
    ]:
        assert prepare("ark", video(model=model, **arguments)).warnings == ()


def test_a_model_that_was_switched_off_passes_with_a_warning_that_names_the_date() -> None:
    for model, since in [
        (V15, "2026-11-11"),
        ("seedance-1-0-lite-t2v-250428", "2026-05-13"),
        ("seedance-1-0-lite-i2v-250428", "2026-05-13"),
    ]:
        (warning,) = prepare("ark", video(model=model)).warnings
        assert f"switched off at the service since {since}" in warning


def test_the_tokens_of_a_video_are_known_before_it_is_submitted() -> None:
    for arguments, tokens in [
        ({"resolution": "720p", "duration": 5, "aspect_ratio": "16:9"}, 108_900),
        ({"duration": 5, "aspect_ratio": "9:16"}, 108_900),
        ({"resolution": "480p", "duration": 4, "aspect_ratio": "16:9"}, 864 * 496 * 97 // 1024),
        ({"model": V25, "resolution": "480p", "duration": 4, "aspect_ratio": "16:9"}, 38_830),
        ({"resolution": "4k", "duration": 4, "aspect_ratio": "16:9"}, 3840 * 2160 * 97 // 1024),
        ({"model": V10, "duration": 5}, 1920 * 1088 * 121 // 1024),
        ({"model": V10, "resolution": "720p"}, 1248 * 704 * 121 // 1024),
        ({"duration": 5}, None),
        ({"aspect_ratio": "adaptive", "duration": 5}, None),
        ({"aspect_ratio": "16:9", "duration": -1}, None),
        ({"model": V25, "aspect_ratio": "16:9"}, None),
        ({"model": "ep-1", "aspect_ratio": "16:9", "duration": 5}, None),
        ({"model": "ep-1", "aspect_ratio": "16:9", "duration": 5, "resolution": "720p"}, 108_900),
        ({"aspect_ratio": "16:9", "duration": 5, "images": CLIP}, None),
        ({"aspect_ratio": "16:9", "duration": 5, "extra_params": {"frames": 29}}, None),
    ]:
        assert prepare("ark", video(**arguments)).price.output_tokens == tokens
