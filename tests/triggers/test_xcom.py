"""XCom that triggers write: little, in time, and never in the way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from support import on_loop
from versions import ENDING_FROM_TRIGGERS, needs

from airflow_provider_seedance.triggers import xcom
from airflow_provider_seedance.triggers.xcom import Progress

pytestmark = needs(ENDING_FROM_TRIGGERS)

TI = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", map_index=None)


async def told(percents: list[float], ti: Any = TI) -> None:
    progress = Progress(ti)
    for percent in percents:
        progress(percent)
    await asyncio.gather(*xcom._telling)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, int]]:
    found: list[tuple[str, Any, int]] = []

    async def aset(key: str, value: Any, *, map_index: int, **names: str) -> None:
        assert names == {"dag_id": "dag", "task_id": "task", "run_id": "run"}
        found.append((key, value, map_index))

    monkeypatch.setattr(BaseXCom, "aset", aset)
    return found


def test_progress_is_written_when_it_is_worth_it(written: list[tuple[str, Any, int]]) -> None:
    on_loop(told([0, 1, 4.4, 7, 9, 30, 20, 250, float("nan")]))
    assert [value for _, value, _ in written] == [7, 30, 100]
    assert {(key, map_index) for key, _, map_index in written} == {("seedance_progress", -1)}


def test_progress_that_cannot_be_written_is_nobodys_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async def aset(*_: Any, **__: Any) -> None:
        raise ConnectionError("the supervisor is away")

    monkeypatch.setattr(BaseXCom, "aset", aset)
    on_loop(told([50]))
    assert xcom._telling == set()


def test_a_trigger_without_a_task_tells_nothing(written: list[tuple[str, Any, int]]) -> None:
    on_loop(told([50], ti=None))
    assert written == []
