from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.transfers.file_names import (
    Naming,
    default_extension,
    distinct,
    extension_of_type,
    extension_of_url,
    folded,
)


def naming(template: str = "{generation_id}.{ext}", count: int = 1, **values: Any) -> Naming:
    known = {"generation_id": "gen-1", "media": "video", "model": "seedance-2.0", "key": "intro", **values}
    return Naming(template=template, values=known, count=count)


@pytest.mark.parametrize(
    ("template", "count", "names"),
    [
        ("{generation_id}.{ext}", 1, ["gen-1.mp4"]),
        ("{generation_id}.{ext}", 2, ["gen-1-1.mp4", "gen-1-2.mp4"]),
        ("clip.{ext}", 1, ["clip.mp4"]),
        ("clip.{ext}", 2, ["clip-1.mp4", "clip-2.mp4"]),
        ("clip", 2, ["clip-1", "clip-2"]),
        ("{index:03d}_{key}.{ext}", 2, ["001_intro.mp4", "002_intro.mp4"]),
        ("{media}/{model}/{generation_id}.{ext}", 1, ["video/seedance-2.0/gen-1.mp4"]),
        ("{{x}}.{ext}", 1, ["{x}.mp4"]),
    ],
)
def test_names(template: str, count: int, names: list[str]) -> None:
    made = naming(template, count)
    assert [made.name(index, "mp4") for index in range(1, count + 1)] == names


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (None, "unknown"),
        ("bytedance/seedance", "bytedance_seedance"),
        *((fits, fits) for fits in ("x" * 200, "漢" * 66)),
    ],
)
def test_values(model: str | None, name: str) -> None:
    assert naming("{model}.{ext}", model=model).name(1, "mp4") == f"{name}.mp4"


@pytest.mark.parametrize(
    "template",
    [
        "{prompt}.mp4", "{}.mp4", "{0}.mp4", "{generation_id.__class__}", "{generation_id[0]}",
        "{generation_id!r}", "{index:{ext}}", "{index:nonsense}", "{ext", "}", "/etc/{key}", "../{key}",
        "a/../../{key}", "a//{key}", "./{key}", "{key}/", "a\x00b", "a\nb", "x" * 256,
    ],
)  # fmt: skip
def test_unusable_templates(template: str) -> None:
    with pytest.raises(SeedanceConfigurationError, match="name_template"):
        naming(template).name(1, "ext")


def malicious(test: Any) -> Any:
    for value in ("../../etc/passwd", "..", "/", "a/b", "a\\b", "", "\x00", "x" * 500):
        test = example(value=value)(test)
    return test


@malicious
@given(value=st.text())
def test_values_stay_in_the_directory(value: str) -> None:
    for template in ("{key}", "{key}.{ext}", "{generation_id}/{model}", "a{key}"):
        made = naming(template, key=value, generation_id=value, model=value)
        try:
            name = made.name(1, "mp4")
        except SeedanceConfigurationError:
            continue
        for segment in name.split("/"):
            assert segment not in ("", ".", "..")
            assert len(segment.encode()) <= 255
        assert name.count("/") == template.count("/")


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🎬"])
@pytest.mark.parametrize("count", [66, 67, 86, 200, 5000])
def test_long_values_are_cut_in_whole_characters(letter: str, count: int) -> None:
    long = letter * count
    made = naming(generation_id=long, count=1).name(1, "mp4")
    assert len(made.encode()) <= 255
    assert made.encode().decode() == made
    assert naming(generation_id=long + "y").name(1, "mp4") != made
    assert naming(generation_id=long, count=100).name(100, "webm")


@given(values=st.lists(st.text("x漢/", min_size=60, max_size=200), unique=True, max_size=5))
def test_different_values_have_different_names(values: list[str]) -> None:
    names = distinct(values)
    assert len({naming("{key}.{ext}", key=names[value]).name(1, "mp4") for value in values}) == len(values)


@pytest.mark.parametrize(
    ("url", "extension"),
    [
        ("https://cdn.example/a.mp4?sig=x.png", "mp4"),
        ("https://cdn.example/a.JPEG", "jpeg"),
        ("https://cdn.example/a%2Ewebp", "webp"),
        ("https://cdn.example/a", None),
        ("https://cdn.example/a.php", None),
        ("https://[broken", None),
        ("data:image/jpeg;base64,xxxx", "jpg"),
        ("data:;base64,xxxx", None),
    ],
)
def test_extension_of_a_url(url: str, extension: str | None) -> None:
    assert extension_of_url(url) == extension


def test_extension_of_a_type() -> None:
    assert extension_of_type("image/webp") == "webp"
    assert extension_of_type("application/octet-stream") is None
    assert extension_of_type(None) is None
    assert (default_extension("video"), default_extension("image")) == ("mp4", "png")


def test_values_that_differ_only_in_case_get_different_names() -> None:
    values = ["Lamp", "lamp", "LAMP", "stra\u00dfe", "STRASSE", "e\u0301", "\u00e9"]
    names = {folded(naming("{key}.{ext}", key=name).name(1, "mp4")) for name in distinct(values).values()}
    assert len(names) == len(values)
    assert distinct(values)["lamp"] == "lamp"
    assert distinct(["Lamp", "Shoe"]) == {"Lamp": "Lamp", "Shoe": "Shoe"}
    assert distinct(reversed(values)) == distinct(values)
