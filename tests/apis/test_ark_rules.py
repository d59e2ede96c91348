"""Arguments that BytePlus ModelArk and Volcengine Ark accept, by model and in combination, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from helpers import body_of, image, prepare, refused, video

from airflow_provider_seedance.apis.ark_rules import model_family
from airflow_provider_seedance.generations import VideoRequest

CHINA = "https://ark.cn-beijing.volces.com/api/v3"
V25, V20, FAST, MINI, V15, V10, V10_FAST = (
    "dreamina-seedance-2-5-260628",
    "dreamina-seedance-2-0-260128",
    "dreamina-seedance-2-0-fast-260128",
    "dreamina-seedance-2-0-mini-260615",
    "seedance-1-5-pro-251215",
    "seedance-1-0-pro-250528",
    "seedance-1-0-pro-fast-251015",
)
ENDPOINT = "ep-20260101-abcde"
ALL_MODELS = (V25, V20, FAST, MINI, V10, V10_FAST, ENDPOINT)
LITE_TEXT, LITE_IMAGE = "seedance-1-0-lite-t2v-250428", "seedance-1-0-lite-i2v-250428"
DREAM_PRO, DREAM_FLASH = "dola-seedream-5-0-pro-260628", "dola-seedream-5-0-flash-260915"

A, B, C = (f"https://example.com/{name}.png" for name in "abc")
DATA_VIDEO, DATA_SOUND = "data:video/mp4;base64,AAAA", "data:audio/mpeg;base64,AAAA"


def pictures(count: int) -> list[str]:
    return [f"https://example.com/{number}.png" for number in range(count)]


def inputs(role: str, count: int = 1) -> list[dict[str, Any]]:
    return [{"url": f"https://example.com/{role}-{number}", "role": role} for number in range(count)]


def references(images: int, videos: int, sounds: int) -> list[dict[str, Any]]:
    counts = {"reference_image": images, "reference_video": videos, "reference_audio": sounds}
    return [item for role, count in counts.items() for item in inputs(role, count)]


FIRST, LAST = inputs("first_frame"), inputs("last_frame")
PICTURE, CLIP, SOUND = (inputs(f"reference_{kind}") for kind in ("image", "video", "audio"))
DRAFT = [{"draft_task": "cgt-1"}]


def requests(*rows: tuple[str, tuple[Any, ...], tuple[str, ...]]) -> Iterator[tuple[str, VideoRequest]]:
    """Make requests with each of the values of an argument for each of the models."""
    for name, values, models in rows:
        for value in values:
            images = A if value == "adaptive" else None
            for model in models:
                yield name, video(model=model, images=images, **{name: value})


def test_documented_values_pass_by_model() -> None:
    for name, request in requests(
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
        ("prompt", ("🎬" * 5000,), ALL_MODELS),
    ):
        assert prepare("ark", request).warnings == (), (name, request)


def test_other_values_are_refused_by_model() -> None:
    for name, request in requests(
        ("resolution", ("4k",), (V25, V10)),
        ("resolution", ("1080p",), (FAST, MINI)),
        ("resolution", ("2160p",), (V20,)),
        ("duration", (31, 3), (V25,)),
        ("duration", (16, 0), (V20,)),
        ("duration", (13, 1, -1), (V10,)),
        ("duration", (3, 13), (V15,)),
        ("seed", (-2, 2**31), (V20,)),
        ("service_tier", ("flex",), (V20, V25)),
        ("draft", (True,), (V20, V10)),
        ("aspect_ratio", ("9:21",), (V20,)),
        ("generate_audio", (True,), (V10,)),
        ("fixed_lens", (True,), (V20, V25)),
        ("fps", (24,), (V20,)),
    ):
        refused("ark", request, f"{name}=")


def test_combinations_that_the_service_documents_pass() -> None:
    for model, arguments in [
        (V20, {"images": [*PICTURE, *SOUND]}),
        (V20, {"images": [*PICTURE, {"url": DATA_SOUND, "role": "reference_audio"}]}),
        (V25, {"images": SOUND}),
        (V20, {"images": references(9, 3, 3)}),
        (V25, {"images": references(30, 10, 10)}),
        (V25, {"images": pictures(30)}),
        (V25, {"aspect_ratio": "adaptive", "images": [*FIRST, *LAST]}),
        (V25, {"prompt": "", "images": DRAFT, "resolution": "1080p"}),
        (V25, {"prompt": "", "images": DRAFT, "watermark": True, "return_last_frame": True}),
        (V10, {"aspect_ratio": "adaptive", "images": [*FIRST, *LAST]}),
        ("ep-1", {"images": inputs("reference_video", 20)}),
    ]:
        assert prepare("ark", video(model=model, **arguments)).warnings == ()


def test_inputs_that_the_service_forbids_are_refused() -> None:
    for model, images, problem in [
        (V20, [*FIRST, *PICTURE], "cannot be mixed"),
        (V20, [*LAST, *SOUND], "cannot be mixed"),
        (V20, [*FIRST, B, C], "cannot be mixed"),
        (V20, FIRST * 2, "can be given once"),
        (V20, LAST, "needs a first_frame"),
        (V20, [{"url": A, "role": "cover"}], "has the role 'cover'"),
        (V20, [{"url": DATA_VIDEO, "role": "reference_video"}], "must be an https or asset"),
        (V20, ["http://example.com/a.png"], "is not an https URL"),
        (V20, ["https://192.168.1.1/a.png"], "is not on a public host"),
        (V20, [5], "image 1 is 5"),
        (V20, pictures(10), "10 images were given"),
        (V20, SOUND, "reference_audio needs a reference_image"),
        (V15, PICTURE, "this model takes none"),
        (V15, CLIP, "this model takes none"),
        (V20, inputs("reference_video", 4), "4 of role reference_video were given; this model takes 3"),
        (V20, references(1, 0, 4), "4 of role reference_audio"),
        (V25, inputs("reference_video", 11), "this model takes 10"),
        (V20, references(10, 3, 3), "10 images were given"),
        (V20, references(9, 4, 3), "4 of role reference_video"),
        (V20, references(9, 3, 4), "4 of role reference_audio"),
        (V25, pictures(31), "31 images"),
        (V25, references(31, 10, 10), "31 images were given"),
        (V25, references(30, 11, 10), "11 of role reference_video"),
        (V25, references(30, 10, 11), "11 of role reference_audio"),
        (V10_FAST, [*FIRST, *LAST], "takes no last_frame"),
        (LITE_TEXT, FIRST, "takes no first_frame"),
    ]:
        refused("ark", video(model=model, images=images), problem)


def test_arguments_that_do_not_go_together_are_refused() -> None:
    edit = {"extra_params": {"omni_reference_task_type": "edit"}}
    for model, arguments, problem in [
        (V20, {"prompt": ""}, "prompt is empty"),
        (V10, {"aspect_ratio": "adaptive"}, "adaptive needs an image"),
        (V25, {"aspect_ratio": "16:9", "images": [*FIRST, *LAST]}, "takes only adaptive"),
        (V25, {"duration": 5, "images": CLIP, **edit}, "an edit takes only -1"),
    ]:
        refused("ark", video(model=model, **arguments), problem)


def test_a_draft_task_goes_alone() -> None:
    for arguments, problem in [
        ({"prompt": "A lamp"}, "prompt cannot be given beside a draft_task"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio cannot be given beside a draft_task"),
        ({"duration": 5}, "duration cannot be given beside a draft_task"),
        ({"seed": 1}, "seed cannot be given beside a draft_task"),
        ({"generate_audio": True}, "generate_audio cannot be given beside a draft_task"),
        ({"images": [*DRAFT, *PICTURE]}, "other images cannot be given"),
        ({"resolution": "720p"}, "in 1080p only"),
    ]:
        refused("ark", video(**{"prompt": "", "model": V25, "images": DRAFT, **arguments}), problem)


def test_a_model_that_was_switched_off_passes_with_a_warning_that_names_the_date() -> None:
    for model, since in [(V15, "2026-11-11"), (LITE_TEXT, "2026-05-13"), (LITE_IMAGE, "2026-05-13")]:
        (warning,) = prepare("ark", video(model=model)).warnings
        assert f"switched off at the service since {since}" in warning


def test_the_host_tells_the_region_and_with_it_the_model_names() -> None:
    chinese = "doubao-seedance-2-0-260128"
    assert prepare("ark", video(), base_url=CHINA).request.model == chinese
    assert prepare("ark", image(), base_url=CHINA).request.model == "doubao-seedream-4-5-251128"
    assert prepare("ark", image()).request.model == "seedream-4-5-251128"
    assert "is not documented" in prepare("ark", video(model=chinese)).warnings[0]
    assert prepare("ark", video(model=chinese), base_url=CHINA).warnings == ()
    assert prepare("ark", video(seed=2**32 - 1), base_url=CHINA).request.seed == 2**32 - 1


def test_model_families() -> None:
    for model, family in [
        (V25, "2.5"),
        (FAST, "2.0-fast"),
        (MINI, "2.0-mini"),
        ("doubao-seedance-2-0-fast-260128", "2.0-fast"),
        ("doubao-seedance-2.0", "2.0"),
        (V15, "1.5-pro"),
        (V10_FAST, "1.0-pro-fast"),
        (LITE_TEXT, "1.0-lite-t2v"),
        (DREAM_FLASH, "5.0-flash"),
        (ENDPOINT, None),
        (None, None),
    ]:
        assert model_family(model) == family


# ---------------------------------------------------------------------- images


def test_documented_sizes() -> None:
    for model, sizes in [
        ("seedream-4-5-251128", ["2k", "4K", "2560x1440", "auto", "adaptive"]),
        ("seedream-4-0-250828", ["1K", "2K", "4K", "1280x720"]),
        (DREAM_PRO, ["1k", "1.5K", "2K", "auto"]),
        (DREAM_FLASH, ["1.5k"]),
        ("ep-1", ["1K", "1.5K", "2k", "3K", "4k", "2048x2048", "1280x720", "auto", "adaptive"]),
    ]:
        for size in sizes:
            sent = body_of("ark", image(model=model, resolution=size))["size"]
            assert sent == (size.upper() if size[-1] in "kK" else size)


def test_other_images_are_refused() -> None:
    for arguments, problem in [
        ({"resolution": "5K"}, "resolution='5K'"),
        ({"resolution": "1080p"}, "2K, 4K, auto, a size"),
        ({"resolution": "1K"}, "resolution='1K'"),
        ({"resolution": "1024x1024"}, "at least 3,686,400 pixels"),
        ({"seed": 7}, "seed=7 is not an argument"),
        ({"output_format": "webp"}, "png or jpeg"),
        ({"model": DREAM_PRO, "num_images": 2}, "num_images=2"),
        ({"model": DREAM_FLASH, "images": pictures(11)}, "11 images were given"),
        ({"num_images": 16}, "num_images=16"),
        ({"num_images": 0}, "num_images=0"),
        ({"images": pictures(15)}, "15 images were given"),
        ({"images": [A] * 10, "num_images": 6}, "more than 15"),
        ({"quality": "high"}, "quality='high' is not an argument"),
        ({"style": "cyberpunk"}, "style='cyberpunk' is not an argument"),
        ({"images": [{"url": A, "role": "first_frame"}]}, "role 'first_frame'"),
        ({"prompt": "", "images": [A]}, "prompt is empty"),
    ]:
        refused("ark", image(**arguments), problem)


# ---------------------------------------------------------------------- costs


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


def test_published_prices() -> None:
    wide = {"aspect_ratio": "16:9", "duration": 5}
    for request, usd in [
        (video(**wide), 0.7623),  # 108,900 tokens
        (video(**wide, model=FAST), 0.60984),
        (video(**wide, model=MINI), 0.38115),
        (video(**wide, model=V25), 1.16523),
        (video(duration=5), None),  # the model chooses the ratio
        (video(**wide, model="doubao-seedance-2-0-260128"), None),
        (video(**wide, model=V10, service_tier="flex"), None),
        (video(**wide, images=CLIP), None),
        (video(**wide, extra_params={"resolution": "1080p"}), None),
        (video(**wide, model=MINI, extra_params={"model": V25}), None),
        (image(), 0.04),
        (image(num_images=3, model="seedream-5-0-lite-260128"), 0.105),
        (image(model=DREAM_PRO, resolution="1K"), 0.045),
        (image(model=DREAM_PRO, resolution="2k"), 0.09),
        (image(model=DREAM_PRO, resolution="1.5K"), None),
        (image(model=DREAM_PRO, resolution="2048x2048"), None),
        (image(model=DREAM_PRO), None),
        (image(extra_params={"sequential_image_generation_options": {"max_images": 9}}), None),
        (image(extra_params={"sequential_image_generation": "auto"}), None),
    ]:
        assert prepare("ark", request).price.cost_usd == usd, request


def test_the_tokens_that_ark_counted_have_the_published_price() -> None:
    for arguments, usd in [
        ({"resolution": "1080p"}, 7.7),
        ({"resolution": "4k"}, 4.0),
        ({}, 7.0),
        ({"images": CLIP}, None),
    ]:
        assert prepare("ark", video(**arguments)).result_defaults.usd_per_million_tokens == usd
