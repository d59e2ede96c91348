"""Requests to BytePlus ModelArk and Volcengine Ark, against part 3 of the collected facts."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import body_of, call_for, image, prepare, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.ark_rules import model_family
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.urls import MediaInput

NAME = "ark"
API = get_api(NAME)
CHINA = "https://ark.cn-beijing.volces.com/api/v3"

A, B, C = (f"https://example.com/{name}.png" for name in "abc")


def content(*images: Any, prompt: str = "A lamp", **more: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = body_of(NAME, video(prompt, images=list(images), **more))["content"]
    return items


def picture(url: str, role: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, "role": role}


# ---------------------------------------------------------------------- video requests


def test_the_smallest_video() -> None:
    call = call_for(NAME, video())
    assert (call.method, call.path) == ("POST", "/contents/generations/tasks")
    assert call.json == {
        "model": "dreamina-seedance-2-0-260128",
        "content": [{"type": "text", "text": "A lamp"}],
    }


def test_every_field_goes_to_its_documented_name_and_type() -> None:
    request = video(
        model="ep-20260101-abcde",
        resolution="1080p",
        aspect_ratio="adaptive",
        duration="5",
        seed="-1",
        generate_audio="false",
        fixed_lens="true",
        watermark="true",
        return_last_frame=True,
        draft=False,
        service_tier="flex",
        extra_params={"frames": 29, "content_extra": None},
    )
    assert body_of(NAME, request, callback_url="https://example.com/cb", correlation="corr") == {
        "model": "ep-20260101-abcde",
        "content": [{"type": "text", "text": "A lamp"}],
        "resolution": "1080p",
        "ratio": "adaptive",
        "duration": 5,
        "seed": -1,
        "generate_audio": False,
        "camera_fixed": True,
        "callback_url": "https://example.com/cb",
        "safety_identifier": "corr",
        "watermark": True,
        "return_last_frame": True,
        "draft": False,
        "service_tier": "flex",
        "frames": 29,
        "content_extra": None,
    }


def test_inputs_become_content_items_with_roles() -> None:
    text = {"type": "text", "text": "A lamp"}
    assert content(A) == [text, picture(A, "first_frame")]
    assert content(A, B) == [text, picture(A, "first_frame"), picture(B, "last_frame")]
    assert content(A, B, C) == [text, *[picture(url, "reference_image") for url in (A, B, C)]]
    assert content({"url": A, "role": "last_frame"}, B) == [
        text,
        picture(A, "last_frame"),
        picture(B, "first_frame"),
    ]
    assert content({"url": A, "role": "reference_image"}) == [text, picture(A, "reference_image")]
    assert content(A, {"url": "https://example.com/v.mp4", "role": "reference_video"}) == [
        text,
        picture(A, "reference_image"),
        {"type": "video_url", "video_url": {"url": "https://example.com/v.mp4"}, "role": "reference_video"},
    ]
    assert content(A, {"url": "asset://sound-1", "role": "reference_audio"}) == [
        text,
        picture(A, "reference_image"),
        {"type": "audio_url", "audio_url": {"url": "asset://sound-1"}, "role": "reference_audio"},
    ]
    assert content({"draft_task": "cgt-1"}, prompt="") == [
        {"type": "draft_task", "draft_task": {"id": "cgt-1"}}
    ]


def test_pictures_may_be_data_and_assets() -> None:
    for url in ("data:image/png;base64,iVBORw0KGgo=", "asset://picture-1"):
        assert content(url)[1] == picture(url, "first_frame")


def test_the_prompt_may_be_left_out_beside_inputs_only() -> None:
    assert content(A, prompt="") == [picture(A, "first_frame")]
    with pytest.raises(errors.SeedanceRequestError, match="prompt is empty"):
        prepare(NAME, video(""))


def test_inputs_that_do_not_go_together_are_refused() -> None:
    for inputs, problem in [
        ([{"url": A, "role": "first_frame"}, {"url": B, "role": "reference_image"}], "cannot be mixed"),
        ([{"url": A, "role": "last_frame"}, {"url": B, "role": "reference_audio"}], "cannot be mixed"),
        ([{"url": A, "role": "first_frame"}, B, C], "cannot be mixed"),
        ([{"url": A, "role": "first_frame"}] * 2, "can be given once"),
        ([{"url": A, "role": "last_frame"}], "needs a first_frame"),
        ([{"url": A, "role": "cover"}], "has the role 'cover'"),
        ([{"url": "data:video/mp4;base64,AAAA", "role": "reference_video"}], "must be an https or asset"),
        (["http://example.com/a.png"], "is not an https URL"),
        (["https://192.168.1.1/a.png"], "is not on a public host"),
        ([5], "image 1 is 5"),
        ([f"https://example.com/{n}.png" for n in range(10)], "10 images were given"),
    ]:
        with pytest.raises(errors.SeedanceRequestError, match=problem):
            prepare(NAME, video(images=inputs))


def test_the_limit_of_reference_images_does_not_count_other_references() -> None:
    pictures = [{"url": f"https://example.com/{n}.png", "role": "reference_image"} for n in range(9)]
    movie = {"url": "https://example.com/v.mp4", "role": "reference_video"}
    assert len(content(*pictures, movie)) == 11
    many = [{"url": f"https://example.com/{n}.png"} for n in range(30)]
    assert len(content(*many, model="dreamina-seedance-2-5-260628")) == 31
    with pytest.raises(errors.SeedanceRequestError, match="31 images"):
        content(*many, C, model="dreamina-seedance-2-5-260628")


V25, V20, FAST, MINI, V15, V10, V10_FAST = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "dreamina-seedance-2-0-mini-260615",
    "seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
    "seedance-1-0-pro-fast-251015",
)
ALL_MODELS = (V25, V20, FAST, MINI, V10, V10_FAST, "ep-20260101-abcde")


def test_documented_values_pass_by_model() -> None:
    for name, values, models in [
        ("resolution", ("480p", "720p"), ALL_MODELS),
        ("resolution", ("1080p",), (V25, V20, V10, V10_FAST, "ep-1")),
        ("resolution", ("4k",), (V20, "ep-1")),
        ("aspect_ratio", ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive"), ALL_MODELS),
        ("duration", (4, 30, -1), (V25,)),
        ("duration", (4, 15, -1), (V20, FAST, MINI)),
        ("duration", (2, 12), (V10, V10_FAST)),
        ("seed", (-1, 0, 2147483647), ALL_MODELS),
        ("generate_audio", (True, False), (V25, V20, FAST, MINI)),
        ("watermark", (True, False), ALL_MODELS),
        ("return_last_frame", (True, False), ALL_MODELS),
        ("draft", (True, False), (V25, "ep-1")),
        ("service_tier", ("default",), ALL_MODELS),
        ("service_tier", ("flex",), (V10, V10_FAST, "ep-1")),
        ("fixed_lens", (True, False), (V10, V10_FAST)),
    ]:
        for model in models:
            for value in values:
                images = A if value == "adaptive" else None
                assert prepare(NAME, video(model=model, images=images, **{name: value})).warnings == ()


def test_other_values_are_refused_by_model() -> None:
    for name, value, model in [
        *[("resolution", "4k", model) for model in (V25, V10)],
        *[("resolution", "1080p", model) for model in (FAST, MINI)],
        ("resolution", "2160p", V20),
        *[("duration", seconds, V25) for seconds in (31, 3)],
        *[("duration", seconds, V20) for seconds in (16, 0)],
        *[("duration", seconds, V10) for seconds in (13, 1, -1)],
        *[("duration", seconds, V15) for seconds in (3, 13)],
        *[("seed", value, V20) for value in (-2, 2**31)],
        *[("service_tier", "flex", model) for model in (V20, V25)],
        *[("draft", True, model) for model in (V20, V10)],
        ("aspect_ratio", "9:21", V20),
        ("generate_audio", True, V10),
        *[("fixed_lens", True, model) for model in (V20, V25)],
        ("fps", 24, V20),
    ]:
        with pytest.raises(errors.SeedanceRequestError, match=f"{name}="):
            prepare(NAME, video(model=model, **{name: value}))


def test_the_host_tells_the_region_and_with_it_the_model_names() -> None:
    assert prepare(NAME, video(), base_url=CHINA).request.model == "doubao-seedance-2-0-260128"
    assert prepare(NAME, image(), base_url=CHINA).request.model == "doubao-seedream-4-5-251128"
    assert prepare(NAME, image()).request.model == "seedream-4-5-251128"
    foreign = prepare(NAME, video(model="doubao-seedance-2-0-260128"))
    assert "is not documented" in foreign.warnings[0]
    assert prepare(NAME, video(seed=2**32 - 1), base_url=CHINA).request.seed == 2**32 - 1
    assert prepare(NAME, video(model="doubao-seedance-2-0-260128"), base_url=CHINA).warnings == ()


def test_model_families() -> None:
    for model, family in [
        (V25, "2.5"),
        (FAST, "2.0-fast"),
        (MINI, "2.0-mini"),
        ("doubao-seedance-2-0-fast-260128", "2.0-fast"),
        ("doubao-seedance-2.0", "2.0"),
        (V15, "1.5-pro"),
        (V10_FAST, "1.0-pro-fast"),
        ("seedance-1-0-lite-t2v-250428", "1.0-lite-t2v"),
        ("dola-seedream-5-0-flash-260915", "5.0-flash"),
        ("ep-20260101-abcde", None),
        (None, None),
    ]:
        assert model_family(model) == family


# ---------------------------------------------------------------------- image requests


def test_the_smallest_image() -> None:
    call = call_for(NAME, image(), image_timeout=600)
    assert (call.method, call.path, call.timeout) == ("POST", "/images/generations", 600)
    assert call.json == {"model": "seedream-4-5-251128", "prompt": "A lamp"}
    assert call_for(NAME, video(), image_timeout=600).timeout is None


def test_every_field_of_an_image_goes_to_its_documented_name() -> None:
    request = image(
        model="ep-20260101-abcde",
        resolution="4k",
        num_images="3",
        seed=7,
        images=[A, B],
        watermark="false",
        output_format="png",
        extra_params={"size2": "x"},
    )
    assert body_of(NAME, request) == {
        "model": "ep-20260101-abcde",
        "prompt": "A lamp",
        "image": [A, B],
        "size": "4K",
        "seed": 7,
        "sequential_image_generation": "auto",
        "sequential_image_generation_options": {"max_images": 3},
        "watermark": False,
        "output_format": "png",
        "size2": "x",
    }
    assert body_of(NAME, image(images=A))["image"] == A
    assert set(body_of(NAME, image(num_images=1))) == {"model", "prompt"}


def test_images_carry_neither_callback_nor_correlation() -> None:
    body = body_of(NAME, image(), callback_url="https://example.com/cb", correlation="corr")
    assert set(body) == {"model", "prompt"}
    assert not API.correlates(image())


def test_documented_sizes() -> None:
    for model, sizes in [
        ("seedream-4-5-251128", ["2k", "4K", "2560x1440", "auto", "adaptive"]),
        ("seedream-4-0-250828", ["1K", "2K", "4K", "1280x720"]),
        ("dola-seedream-5-0-pro-260628", ["1k", "1.5K", "2K", "auto"]),
        ("dola-seedream-5-0-flash-260915", ["1.5k"]),
        ("ep-1", ["1K", "1.5K", "2k", "3K", "4k", "2048x2048", "1280x720", "auto", "adaptive"]),
    ]:
        for size in sizes:
            check_size(model, size)


def check_size(model: str, size: str) -> None:
    sent = body_of(NAME, image(model=model, resolution=size))["size"]
    assert sent == (size.upper() if size[-1] in "kK" else size)


def test_other_images_are_refused() -> None:
    for arguments, problem in [
        ({"resolution": "5K"}, "resolution='5K'"),
        ({"resolution": "1080p"}, "2K, 4K, auto, a size"),
        ({"resolution": "1K"}, "resolution='1K'"),
        ({"resolution": "1024x1024"}, "at least 3,686,400 pixels"),
        ({"seed": 7}, "seed=7 is not an argument"),
        ({"output_format": "webp"}, "png or jpeg"),
        ({"model": "dola-seedream-5-0-pro-260628", "num_images": 2}, "num_images=2"),
        (
            {
                "model": "dola-seedream-5-0-flash-260915",
                "images": [f"https://example.com/{n}.png" for n in range(11)],
            },
            "11 images were given",
        ),
        ({"num_images": 16}, "num_images=16"),
        ({"num_images": 0}, "num_images=0"),
        ({"images": [f"https://example.com/{n}.png" for n in range(15)]}, "15 images were given"),
        ({"images": [A] * 10, "num_images": 6}, "more than 15"),
        ({"quality": "high"}, "quality='high' is not an argument"),
        ({"style": "cyberpunk"}, "style='cyberpunk' is not an argument"),
        ({"images": [{"url": A, "role": "first_frame"}]}, "role 'first_frame'"),
        ({"prompt": "", "images": [A]}, "prompt is empty"),
    ]:
        with pytest.raises(errors.SeedanceRequestError, match=problem):
            prepare(NAME, image(**arguments))


# ---------------------------------------------------------------------- correlation


def test_a_safety_identifier_of_the_user_stays_and_rules_out_the_look_up() -> None:
    request = video(extra_params={"safety_identifier": "user-5"})
    assert not API.correlates(request)
    assert body_of(NAME, request, correlation="corr")["safety_identifier"] == "user-5"
    assert API.correlates(video())


def test_inputs_are_media_inputs() -> None:
    assert video(images=A).images == (MediaInput(url=A),)


# ---------------------------------------------------------------------- prices

WIDE = {"aspect_ratio": "16:9", "duration": 5}
FILM = MediaInput(url="https://a.example/v.mp4", role="reference_video")
MINI = "dreamina-seedance-2-0-mini-260615"


def test_published_prices() -> None:
    for request_, usd in [
        (video(**WIDE), 0.7623),  # 108,900 tokens
        (video(**WIDE, model="dreamina-seedance-2-0-fast-260128"), 0.60984),
        (video(**WIDE, model=MINI), 0.38115),
        (video(**WIDE, model="dreamina-seedance-2-5-260628"), 1.16523),
        (video(duration=5), None),  # the model chooses the ratio
        (video(**WIDE, model="doubao-seedance-2-0-260128"), None),
        (video(**WIDE, model="seedance-1-0-pro-250528", service_tier="flex"), None),
        (video(**WIDE, images=[FILM]), None),
        (video(**WIDE, extra_params={"resolution": "1080p"}), None),
        (image(), 0.04),
        (image(num_images=3, model="seedream-5-0-lite-260128"), 0.105),
        *[
            (image(model="dola-seedream-5-0-pro-260628", resolution=size), usd)
            for size, usd in (("1K", 0.045), ("2k", 0.09), ("1.5K", None), ("2048x2048", None), (None, None))
        ],
        (video(**WIDE, model=MINI, extra_params={"model": "dreamina-seedance-2-5-260628"}), None),
        (image(extra_params={"sequential_image_generation_options": {"max_images": 9}}), None),
        (image(extra_params={"sequential_image_generation": "auto"}), None),
    ]:
        assert prepare("ark", request_).price.cost_usd == usd


def test_the_tokens_that_ark_counted_have_the_published_price() -> None:
    for arguments, usd in [
        ({"resolution": "1080p"}, 7.7),
        ({"resolution": "4k"}, 4.0),
        ({}, 7.0),
        ({"images": [FILM]}, None),
    ]:
        assert prepare("ark", video(**arguments)).result_defaults.usd_per_million_tokens == usd
