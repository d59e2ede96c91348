"""Ids of callbacks in the task state store."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.callbacks.inbox import MAX_IDS, key_for, read_ids, with_id
from airflow_provider_seedance.ledger.task_state import STATE_KEY


def test_ids_round_trip_and_the_first_ones_stay() -> None:
    stored = None
    for number in range(2 * MAX_IDS):
        stored = json.loads(json.dumps(with_id(stored, f"g{number}") or stored))
    assert read_ids(stored) == [f"g{number}" for number in range(MAX_IDS)]
    assert with_id(with_id(None, "g1"), "g1") is None  # a known id is not written again


@given(st.text(), st.text())
def test_every_submission_has_its_own_key(one: str, other: str) -> None:
    assert (key_for(one) == key_for(other)) is (one == other)
    assert not key_for(one).startswith(STATE_KEY)


@given(
    st.none()
    | st.text()
    | st.integers()
    | st.lists(st.text())
    | st.dictionaries(st.text(), st.integers())
    | st.builds(lambda value: {"generation_ids": value}, st.none() | st.just("") | st.lists(st.integers()))
)
def test_other_values_have_no_ids(value: Any) -> None:
    assert read_ids(value) == []
    assert read_ids(with_id(value, "g1")) == ["g1"]
