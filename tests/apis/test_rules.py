"""Rules by themselves: accepted values and descriptions."""

from __future__ import annotations

from airflow_provider_seedance.apis import rules
from airflow_provider_seedance.urls import MediaHosts, MediaInput

OUT = (MediaInput(url="https://a.example/1.png"),)


def test_rules() -> None:
    for rule, good, bad, says in [
        (rules.text(), ["", "x" * 9999], [5, None, b"x"], "text"),
        (rules.text(max_chars=3), ["abc", "🎬🎬🎬"], ["abcd"], "text of at most 3 characters"),
        (rules.one_of((4, 8), " (seconds)"), [4, 8], [5, "4", True, 4.0, None, [4]], "4 or 8 (seconds)"),
        (rules.one_of((1,)), [1], [True, "1"], "1"),
        (rules.one_of(("a", "b", "c")), ["a"], ["A", "d", ""], "a, b or c"),
        (rules.pattern(r"\d+x\d+", "a size"), ["1x2"], ["1x", "1x2\n", 5], "a size"),
        (rules.whole_number(1, 4), [1, 4], [0, 5, 1.5, True, "1", None], "a whole number from 1 to 4"),
        (
            rules.whole_number(4, 30, " (seconds)", also=(-1,)),
            [4, -1],
            [0, 3],
            "a whole number from 4 to 30 (seconds) or -1",
        ),
        (rules.whole_number(), [-(10**30), 0, 10**30], [0.5, "0"], "a whole number"),
        (rules.flag(), [True, False], [0, 1, "true", None], "true or false"),
        (rules.model_name(("m-1", "m-2")), ["m-1", "anything"], [5, None], "a model name such as m-1, m-2"),
        (rules.inputs(maximum=1), [OUT, ()], [OUT * 2, (5,), (None,)], "at most 1 image as https URLs"),
        (rules.inputs(), [OUT * 99], [("x",)], "images as https URLs"),
        (rules.undocumented(rules.flag(), "who knows"), [True], ["true"], "true or false"),
    ]:
        assert [value for value in good if not rule.accepts(value)] == []
        assert [value for value in bad if rule.accepts(value)] == []
        assert rule.takes == says


def test_doubts() -> None:
    assert rules.model_name(("m-1",), prefixes=("ep-",)).warning("m-1") is None
    assert rules.model_name(("m-1",), prefixes=("ep-",)).warning("ep-5") is None
    assert "m-1" in (rules.model_name(("m-1",)).warning("ep-5") or "")
    assert "who knows" in (rules.undocumented(rules.flag(), "who knows").warning(True) or "")
    assert rules.text().warning("x") is None


def test_each_input_that_is_wrong_is_named_by_its_number() -> None:
    problems = rules.inputs(roles=("first_frame",)).problems
    assert problems
    wrong = problems(
        [*OUT, MediaInput(url="http://a.example/2"), MediaInput(url="https://a.example/3", role="x"), {}],
        MediaHosts(),
    )
    assert [problem[:7] for problem in wrong] == ["image 2", "image 3", "image 4"]
    trusted = MediaHosts.parse("minio")
    assert problems([MediaInput(url="http://minio/2")], trusted) == []
