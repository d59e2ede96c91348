from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import TaskInstanceState

from airflow_provider_seedance.task_states import ABANDONED, state_of


@pytest.mark.parametrize(
    ("states", "map_index", "found"),
    [
        ({"run": {"task": "failed"}}, -1, "failed"),
        ({"run": {"task": "failed"}}, None, "failed"),
        ({"run": {"task_3": "success", "task": "failed"}}, 3, "success"),
        ({"run": {"task_3": None}}, 3, None),
        ({"run": {}}, -1, None),
        ({}, -1, None),
        ({"run": None}, -1, None),
        (None, -1, None),
        ([], -1, None),
    ],
)
def test_the_state_in_what_airflow_answers(states: Any, map_index: int | None, found: str | None) -> None:
    assert state_of(states, "run", "task", map_index) == found


def test_the_states_are_airflows() -> None:
    assert {state for state in TaskInstanceState if str(state.value) in ABANDONED} == {
        TaskInstanceState.FAILED,
        TaskInstanceState.SUCCESS,
        TaskInstanceState.SKIPPED,
        TaskInstanceState.REMOVED,
    }
    assert state_of({"run": {"task": TaskInstanceState.FAILED}}, "run", "task", -1) == "failed"
