"""What lies in the mailbox, and who reads it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.callbacks.mailbox import key_for, letter, read_letter
from airflow_provider_seedance.records import RECORD_KEY


def test_a_letter_is_read_as_it_was_written() -> None:
    assert read_letter(json.loads(json.dumps(letter("g1")))) == "g1"


@given(st.text(), st.text())
def test_every_submission_has_a_box_of_its_own(one: str, other: str) -> None:
    assert (key_for(one) == key_for(other)) is (one == other)
    assert key_for(one) != RECORD_KEY


@given(
    st.none()
    | st.text()
    | st.integers()
    | st.lists(st.text())
    | st.dictionaries(st.text(), st.integers())
    | st.builds(lambda value: {"generation_id": value}, st.none() | st.just("") | st.integers())
)
def test_anything_else_says_nothing(value: Any) -> None:
    assert read_letter(value) is None
