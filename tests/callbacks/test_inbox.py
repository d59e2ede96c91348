"""What lies in the mailbox, and who reads it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.callbacks.inbox import MOST, key_for, read_ids, with_id
from airflow_provider_seedance.ledger.task_state import STATE_KEY


def test_ids_are_read_as_they_were_written_and_nothing_drives_out_the_first() -> None:
    kept = None
    for number in range(2 * MOST):
        kept = json.loads(json.dumps(with_id(kept, f"g{number}") or kept))
    assert read_ids(kept) == [f"g{number}" for number in range(MOST)]


def test_what_is_known_is_not_written_again() -> None:
    assert with_id(with_id(None, "g1"), "g1") is None


@given(st.text(), st.text())
def test_every_submission_has_a_box_of_its_own(one: str, other: str) -> None:
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
def test_anything_else_says_nothing(value: Any) -> None:
    assert read_ids(value) == []
    assert read_ids(with_id(value, "g1")) == ["g1"]
