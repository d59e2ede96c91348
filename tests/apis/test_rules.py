"""Rules on their own: what they accept and how they say it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_seedance.apis.rules import (
    Flag,
    Inputs,
    Model,
    OneOf,
    Pattern,
    Rule,
    Text,
    Undocumented,
    Whole,
)
from airflow_provider_seedance.generations import MediaInput
from airflow_provider_seedance.urls import MediaHosts

OUT = (MediaInput(url="https://a.example/1.png"),)


@pytest.mark.parametrize(
    ("rule", "good", "bad", "says"),
    [
        (Text(), ["", "x" * 9999], [5, None, b"x"], "text"),
        (Text(max_chars=3), ["abc", "🎬🎬🎬"], ["abcd"], "text of at most 3 characters"),
        (OneOf((4, 8), " (seconds)"), [4, 8], [5, "4", True, 4.0, None, [4]], "4 or 8 (seconds)"),
        (OneOf((1,)), [1], [True, "1"], "1"),
        (OneOf(("a", "b", "c")), ["a"], ["A", "d", ""], "a, b or c"),
        (Pattern(r"\d+x\d+", "a size"), ["1x2"], ["1x", "1x2\n", 5], "a size"),
        (Whole(1, 4), [1, 4], [0, 5, 1.5, True, "1", None], "a whole number from 1 to 4"),
        (
            Whole(4, 30, " (seconds)", also=(-1,)),
            [4, -1],
            [0, 3],
            "a whole number from 4 to 30 (seconds) or -1",
        ),
        (Whole(), [-(10**30), 0, 10**30], [0.5, "0"], "a whole number"),
        (Flag(), [True, False], [0, 1, "true", None], "true or false"),
        (Model(("m-1", "m-2")), ["m-1", "anything"], [5, None], "a model name such as m-1, m-2"),
        (Inputs(maximum=1), [OUT, ()], [OUT * 2, (5,), (None,)], "at most 1 image as https URLs"),
        (Inputs(), [OUT * 99], [("x",)], "images as https URLs"),
        (Undocumented(Flag(), "who knows"), [True], ["true"], "true or false"),
    ],
)
def test_rules(rule: Rule, good: list[Any], bad: list[Any], says: str) -> None:
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []
    assert rule.describe() == says


def test_doubts() -> None:
    assert Model(("m-1",), prefixes=("ep-",)).warning("m-1") is None
    assert Model(("m-1",), prefixes=("ep-",)).warning("ep-5") is None
    assert "m-1" in (Model(("m-1",)).warning("ep-5") or "")
    assert "who knows" in (Undocumented(Flag(), "who knows").warning(True) or "")
    assert Text().warning("x") is None


def test_each_input_that_is_wrong_is_named_by_its_number() -> None:
    wrong = Inputs(roles=("first_frame",)).problems(
        [*OUT, MediaInput(url="http://a.example/2"), MediaInput(url="https://a.example/3", role="x"), {}],
        MediaHosts(),
    )
    assert [problem[:7] for problem in wrong] == ["image 2", "image 3", "image 4"]
    assert Inputs().problems([MediaInput(url="http://minio/2")], MediaHosts.parse("minio")) == []
