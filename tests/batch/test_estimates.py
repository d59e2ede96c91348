"""What a campaign will cost, before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import connection
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.seedanceapi_v1 import PRICES
from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.batch.estimates import estimate, estimate_items
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.settings import Settings, read_settings


def settings(api: str, **extra: Any) -> Settings:
    return read_settings("c", connection(password="k", extra={"api": api, **extra}))


def test_it_adds_up_what_single_renders_cost() -> None:
    service = settings("seedanceapi-v1")
    lists: list[Any] = [{"prompt": "a", "duration": 4}, {"prompt": "b", "duration": 8, "resolution": "720p"}]
    one, other = (estimate_items(service, read_requests([item])) for item in lists)
    both = estimate_items(service, read_requests([*lists, *lists]))
    assert one.credits
    assert other.credits
    assert both.credits == 2 * (one.credits + other.credits)
    assert both.renders == 4
    assert both.cost_usd == pytest.approx(2 * ((one.cost_usd or 0) + (other.cost_usd or 0)))
    assert len(both.rows) == 2
    assert both.as_dict()["rows"][1]["renders"] == 2


def test_unknown_stays_unknown() -> None:
    found = estimate_items(settings("ark"), read_requests(["a", "b"]))
    assert (found.credits, found.cost_usd, found.unpriced) == (None, None, 2)
    assert found.table().count("unknown") == 4


def test_what_the_service_does_not_take_is_told() -> None:
    found = estimate_items(settings("seedanceapi-v1"), read_requests(["a", {"prompt": "b", "duration": 999}]))
    assert found.renders == 1
    assert [key for key, _ in found.problems] == ["1"]
    assert "refused: 1: " in found.table()


def test_the_table_has_a_line_for_each_model_and_resolution() -> None:
    items: list[Any] = [
        {"prompt": "a", "resolution": "480p"},
        {"prompt": "a", "resolution": "480p"},
        {"prompt": "a", "resolution": "720p"},
    ]
    head, *rows, total = estimate_items(settings("seedanceapi-v1"), read_requests(items)).table().splitlines()
    assert head.split() == ["model", "resolution", "renders", "credits", "cost"]
    assert [row.split()[1:3] for row in rows] == [["480p", "2"], ["720p", "1"]]
    assert total.split()[:2] == ["total", "3"]
    assert len({len(line) for line in (head, *rows, total)}) == 1


def test_nothing_costs_nothing() -> None:
    found = estimate_items(settings("ark"), ())
    assert found.renders == 0
    assert "total" in found.table()


def test_what_has_no_price_makes_the_sum_a_lower_bound() -> None:
    service = settings("seedanceapi-v1")
    # A field of the service's own may change what it costs in a way that nobody published.
    items: list[Any] = ["a", {"prompt": "b", "extra_params": {"duration": 6}}, {"prompt": "c", "duration": 4}]
    found = estimate_items(service, read_requests(items))
    assert (found.renders, found.unpriced, found.credits, found.cost_usd) == (3, 1, None, None)
    assert (found.known_credits, found.known_usd) == (28 + 14, 0.21)
    assert found.summary() == "at least 42 credits ($0.21), 1 render of unknown price"
    *_, total, said = found.table().splitlines()
    assert "at least 42" in total
    assert "at least $0.21" in total
    assert said == f"{found.summary()}."
    assert found.as_dict()["at_least"] == {"credits": 42, "cost_usd": 0.21}


def test_requests_of_which_nothing_is_known_but_their_number() -> None:
    service = settings("seedanceapi-v1")
    prepared = [prepare_request(service, VideoRequest(prompt="a"))]
    found = estimate(service, prepared, unknown=2)
    assert (found.renders, found.unpriced, found.credits, found.known_credits) == (3, 2, None, 28)
    assert found.summary() == "at least 28 credits ($0.14), 2 renders of unknown price"
    nothing = estimate(service, [], unknown=2)
    assert (nothing.renders, nothing.known_credits) == (2, None)
    assert nothing.summary() == "2 renders of unknown price"


def test_nothing_is_no_lower_bound_but_nothing() -> None:
    found = estimate_items(settings("seedanceapi-v1"), ())
    assert (found.credits, found.cost_usd, found.unpriced) == (0, 0, 0)
    assert found.summary() == "0 credits ($0.00)"


def test_fractions_of_a_cent_are_not_rounded_away() -> None:
    service = settings("seedanceapi-v1")
    found = estimate_items(service, read_requests([{"prompt": "a", "resolution": "480p", "duration": 12}]))
    assert (found.credits, found.cost_usd) == (19, 0.095)
    assert "$0.095" in found.table()


def test_refusals_of_a_kind_are_told_once_and_not_without_end() -> None:
    service = settings("seedanceapi-v1")
    found = estimate(service, [], [("render", "too long")] * 7)
    assert found.table().splitlines()[-1] == "refused: render: too long (7 times)"
    many = estimate(service, [], [(str(number), "too long") for number in range(30)])
    assert many.table().splitlines()[-1] == "and 10 more"
    assert len(many.as_dict()["refused"]) == 30


def test_the_dictionary_is_json() -> None:
    found = estimate_items(settings("seedanceapi-v1"), read_requests(["a", {"prompt": "b", "duration": 5}]))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()


@given(st.lists(st.tuples(st.sampled_from(sorted(PRICES)), st.integers(1, 40)), max_size=8))
def test_it_is_the_sum_of_the_published_prices(asked: list[tuple[tuple[str, int, bool], int]]) -> None:
    items: list[Any] = [
        {"prompt": "a", "resolution": resolution, "duration": duration, "generate_audio": audio}
        for (resolution, duration, audio), count in asked
        for _ in range(count)
    ]
    found = estimate_items(settings("seedanceapi-v1"), read_requests(items))
    assert found.credits == sum(PRICES[key] * count for key, count in asked)
    assert found.cost_usd == pytest.approx(found.credits * 0.005)
    assert sum(row.renders for row in found.rows) == found.renders == len(items)
    assert len(found.rows) == len({key[0] for key, _ in asked})


def test_the_connections_model_is_the_one_that_is_priced() -> None:
    found = estimate_items(settings("ark", model="seedance-2-0-pro"), read_requests(["a"]))
    assert [row.model for row in found.rows] == ["seedance-2-0-pro"]
