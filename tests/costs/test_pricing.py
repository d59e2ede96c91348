"""The prices of a connection: which rule counts, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_seedance.costs.pricing import Prices, ResultDefaults
from airflow_provider_seedance.generations import (
    Estimate,
    Generation,
    GenerationStatus,
    ImageRequest,
    VideoRequest,
)

CLIP = VideoRequest(prompt="p", model="seedance-2.0-fast", duration=5, resolution="720p", generate_audio=True)
STILL = ImageRequest(prompt="p", model="seedream-4.0", num_images=3)
PUBLISHED = Estimate(credits=28, cost_usd=0.14, output_tokens=108_900)


@pytest.mark.parametrize(
    ("request_", "rules", "expected"),
    [
        (CLIP, [{"usd": 0.5}], (28, 0.5)),
        (CLIP, [{"usd_per_second": 0.14}], (28, 0.7)),
        (CLIP, [{"usd_per_million_tokens": 10}], (28, 1.089)),
        (CLIP, [{"credits": 10}], (10, 0.14)),
        (CLIP, [{"credits_per_second": 3}], (15, 0.14)),
        (CLIP, [{"usd_per_credit": 0.004}], (28, 0.112)),
        (CLIP, [{"usd": 0.5, "model": "seedance-2.0*"}], (28, 0.5)),
        (CLIP, [{"usd": 0.5, "model": "seedance-1*"}], (28, 0.14)),
        (CLIP, [{"usd": 0.5, "resolution": "1080p"}], (28, 0.14)),
        (CLIP, [{"usd": 0.5, "audio": False}], (28, 0.14)),
        (CLIP, [{"usd": 0.5, "duration": 8}], (28, 0.14)),
        (CLIP, [{"usd": 0.5, "media": "image"}], (28, 0.14)),
        (
            CLIP,
            [{"usd": 0.5, "resolution": "720p", "duration": 5, "audio": True, "media": "video"}],
            (28, 0.5),
        ),
        # The first rule that matches counts, for each unit.
        (CLIP, [{"usd": 1, "resolution": "1080p"}, {"usd": 2}, {"usd": 3}], (28, 2)),
        (CLIP, [{"credits": 10}, {"usd_per_credit": 0.1}, {"credits": 99}], (10, 1)),
        (STILL, [{"usd_per_image": 0.03}], (28, 0.09)),
        (ImageRequest(prompt="p"), [{"usd_per_image": 0.03}], (28, 0.03)),
        # Of no known length.
        (VideoRequest(prompt="p"), [{"usd_per_second": 0.14}], (28, None)),
        (VideoRequest(prompt="p", duration=-1), [{"usd_per_second": 0.14}], (28, None)),
    ],
    ids=str,
)
def test_a_rule_that_matches_comes_before_the_published_price(
    request_: Any, rules: list[dict[str, Any]], expected: tuple[float, float | None]
) -> None:
    found = Prices.parse(rules).estimate(request_, PUBLISHED)
    assert (found.credits, found.cost_usd) == expected


PUBLISHED_DEFAULTS = {"credits": 28, "cost_usd": 0.14, "model": "m"}
BY_CREDITS = ResultDefaults(credits=28, cost_usd=0.112, usd_per_credit=0.004).as_dict()
BY_TOKENS = {"cost_usd": 5.0, "usd_per_million_tokens": 10.0}
TOKENS = {"output_tokens": 108_900}


@pytest.mark.parametrize(
    ("status", "reported", "defaults", "credits", "usd"),
    [
        ("succeeded", {}, PUBLISHED_DEFAULTS, 28, 0.14),
        ("succeeded", {"credits": 30}, BY_CREDITS, 30, 0.12),
        # A generation that failed costs what the service reports, and its tokens by their price.
        ("failed", {}, PUBLISHED_DEFAULTS, None, None),
        ("failed", {}, BY_TOKENS, None, None),
        ("failed", {"usage": TOKENS}, BY_TOKENS, None, 1.089),
        ("failed", {"usage": TOKENS, "cost_usd": 0.5}, BY_TOKENS, None, 0.5),
    ],
)
def test_the_cost_of_a_generation_that_has_ended(
    status: str, reported: dict[str, Any], defaults: dict[str, Any], credits: float | None, usd: float | None
) -> None:
    ended = Generation(
        generation_id="g", api="a", media="video", status=GenerationStatus(status), **reported
    ).with_defaults(defaults)
    assert (ended.credits, ended.cost_usd, ended.model) == (credits, usd, defaults.get("model"))


@pytest.mark.parametrize(
    "value",
    [
        {"usd": 1},
        ["usd"],
        [{"model": "m"}],
        [{"usd": 1, "credits": 2}],
        [{"usd": -1}],
        [{"usd": "one"}],
        [{"usd": 1, "model": 2}],
        [{"usd": 1, "audio": "yes"}],
        [{"usd": 1, "duration": "8 s"}],
        [{"usd": 1, "media": "film"}],
        [{"usd": 1, "colour": "red"}],
        [{"usd_per_credit": None}],
    ],
    ids=str,
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a list of rules"):
        Prices.parse(value)
