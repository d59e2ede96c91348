"""The price of a batch, before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import settings
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.seedanceapi_v1 import API
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.estimates import BatchEstimate, estimate, estimate_items
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.settings import Settings

#: A service with published prices.
SERVICE = settings(api="seedanceapi-v1")

#: Credits by resolution, duration and sound.
PRICES = {
    (str(rule.resolution), int(rule.duration or 0), bool(rule.audio)): rule.price
    for rule in API.published.prices.rules
}


def estimated(requests: list[Any], service: Settings = SERVICE) -> BatchEstimate:
    return estimate_items([service], read_requests(requests))


def test_a_service_without_prices_has_no_sum() -> None:
    found = estimated(["a", "b"], settings(api="ark", model="seedance-2-0-pro"))
    assert [row.model for row in found.rows] == ["seedance-2-0-pro"]
    assert (found.credits, found.cost_usd, found.unpriced) == (None, None, 2)
    assert found.table().count("unknown") == 4


def test_invalid_items_are_named() -> None:
    found = estimated(["a", {"prompt": "b", "duration": 999}])
    assert found.renders == 1
    assert [key for key, _ in found.problems] == ["1"]
    assert "refused: 1: " in found.table()
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()


def test_the_table_has_a_line_for_each_model_and_resolution() -> None:
    items = [{"prompt": "a", "resolution": resolution} for resolution in ("480p", "480p", "720p")]
    head, *rows, total = estimated(items).table().splitlines()
    assert head.split() == ["model", "resolution", "renders", "credits", "cost"]
    assert [row.split()[1:3] for row in rows] == [["480p", "2"], ["720p", "1"]]
    assert total.split()[:2] == ["total", "3"]
    assert len({len(line) for line in (head, *rows, total)}) == 1


def test_fractions_of_a_cent_are_kept_and_an_empty_batch_costs_nothing() -> None:
    cheap = estimated([{"prompt": "a", "resolution": "480p", "duration": 12}])
    assert (cheap.credits, cheap.cost_usd) == (19, 0.095)
    assert "$0.095" in cheap.table()
    found = estimated([])
    assert (found.renders, found.credits, found.cost_usd, found.unpriced) == (0, 0, 0, 0)
    assert found.summary() == "0 credits ($0.00)"
    assert "total" in found.table()


def test_an_item_without_a_price_makes_the_sum_a_lower_bound() -> None:
    # The effect of an extra parameter on the price is not published.
    items: list[Any] = ["a", {"prompt": "b", "extra_params": {"duration": 6}}, {"prompt": "c", "duration": 4}]
    found = estimated(items)
    assert (found.renders, found.unpriced, found.credits, found.cost_usd) == (3, 1, None, None)
    assert (found.known_credits, found.known_usd) == (28 + 14, 0.21)
    assert found.summary() == "at least 42 credits ($0.21), 1 render of unknown price"
    *_, total, last = found.table().splitlines()
    assert "at least 42" in total
    assert "at least $0.21" in total
    assert last == f"{found.summary()}."
    assert found.as_dict()["at_least"] == {"credits": 42, "cost_usd": 0.21}


def test_unknown_requests_count_without_a_price() -> None:
    prepared = [prepare_request(SERVICE, VideoRequest(prompt="a"))]
    found = estimate(SERVICE, prepared, unknown=2)
    assert (found.renders, found.unpriced, found.credits, found.known_credits) == (3, 2, None, 28)
    assert found.summary() == "at least 28 credits ($0.14), 2 renders of unknown price"
    nothing = estimate(SERVICE, [], unknown=2)
    assert (nothing.renders, nothing.known_credits) == (2, None)
    assert nothing.summary() == "2 renders of unknown price"


def test_equal_problems_are_listed_once_and_only_the_first_ones() -> None:
    found = estimate(SERVICE, [], [("render", "too long")] * 7)
    assert found.table().splitlines()[-1] == "refused: render: too long (7 times)"
    many = estimate(SERVICE, [], [(str(number), "too long") for number in range(30)])
    assert many.table().splitlines()[-1] == "and 20 more"
    assert len(many.as_dict()["refused"]) == 30


@given(st.lists(st.tuples(st.sampled_from(sorted(PRICES)), st.integers(1, 3)), max_size=4))
def test_the_sum_is_that_of_the_published_prices(counts: list[tuple[tuple[str, int, bool], int]]) -> None:
    items = [
        {"prompt": "a", "resolution": resolution, "duration": duration, "generate_audio": audio}
        for (resolution, duration, audio), count in counts
        for _ in range(count)
    ]
    found = estimated(items)
    assert found.credits == sum(PRICES[key] * count for key, count in counts)
    assert found.cost_usd == pytest.approx(found.credits * 0.005)
    assert sum(row["renders"] for row in found.as_dict()["rows"]) == found.renders == len(items)
    assert len(found.rows) == len({key[0] for key, _ in counts})


def test_a_price_in_dollars_alone_is_a_whole_price() -> None:
    items: list[Any] = [{"prompt": "a", "duration": 8, "resolution": "720p", "aspect_ratio": "16:9"}]
    found = estimated(items, settings(api="ark"))
    assert (found.unpriced, found.credits, found.output_tokens) == (0, None, 173_700)
    assert found.cost_usd == found.known_usd
    assert "unknown price" not in found.summary()
    assert "at least" not in found.table()
