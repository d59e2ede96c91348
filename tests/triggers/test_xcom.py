"""XCom that triggers write: few writes, none of which fails a wait."""

from __future__ import annotations

import asyncio
import contextvars
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from polling.simulated import simulate
from support import on_loop
from versions import ENDING_FROM_TRIGGERS, needs

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.triggers import xcom
from airflow_provider_seedance.triggers.xcom import EndsReporter, ProgressReporter

pytestmark = needs(ENDING_FROM_TRIGGERS)

TI = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", map_index=None)
SEEN = datetime(2026, 5, 1, 12, tzinfo=UTC)


def reading(percent: float | None) -> Generation:
    return Generation(
        generation_id="g", api="ark", media="video", status=GenerationStatus.RUNNING, progress=percent
    )


async def report(percents: list[float | None], ti: Any = TI) -> None:
    reporter = ProgressReporter(ti)
    for percent in percents:
        reporter(reading(percent))
    await asyncio.gather(*xcom._pushes)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, int]]:
    writes: list[tuple[str, Any, int]] = []

    async def aset(key: str, value: Any, *, map_index: int, **names: str) -> None:
        assert names == {"dag_id": "dag", "task_id": "task", "run_id": "run"}
        writes.append((key, copy(value), map_index))

    monkeypatch.setattr(BaseXCom, "aset", aset)
    return writes


def test_progress_is_written_in_steps(written: list[tuple[str, Any, int]]) -> None:
    on_loop(report([None, 0, 1, 4.4, 7, 9, 30, 20, 250, float("nan")]))
    assert [value for _, value, _ in written] == [7, 30, 100]
    assert {(key, map_index) for key, _, map_index in written} == {("seedance_progress", -1)}
    written.clear()
    on_loop(report([50], ti=None))
    assert written == []


def test_progress_is_written_in_the_context_of_the_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.4 finds the attempt by it; the hub that reports the progress has an empty context."""
    attempt = contextvars.ContextVar("attempt", default="none")
    seen: list[str] = []

    async def aset(*_: Any, **__: Any) -> None:
        seen.append(attempt.get())

    async def wait() -> None:
        attempt.set("of the trigger")
        reporter, hub = ProgressReporter(TI), contextvars.Context()
        for percent in (50, 80):
            hub.run(reporter, reading(percent))
        await asyncio.gather(*xcom._pushes)

    monkeypatch.setattr(BaseXCom, "aset", aset)
    on_loop(wait())
    assert seen == ["of the trigger"] * 2


def ended(generation_id: str) -> Generation:
    return replace(
        reading(None), generation_id=generation_id, status=GenerationStatus.SUCCEEDED, read_at=SEEN
    )


@pytest.mark.parametrize(("seconds", "writes"), [(6.0, ["a", "ab", "abc"]), (1.0, ["a"])])
def test_the_ends_of_a_batch_are_written_at_an_interval(
    written: list[tuple[str, Any, int]], monkeypatch: pytest.MonkeyPatch, seconds: float, writes: list[str]
) -> None:
    async def report_ends() -> None:
        with EndsReporter(TI) as reporter:
            for generation_id in "abc":
                reporter(ended(generation_id))
                await asyncio.sleep(seconds)
        reporter(ended("after the wait"))
        await asyncio.gather(*xcom._pushes)

    simulate(monkeypatch, report_ends())
    assert ["".join(one["generation_id"] for one in value) for _, value, _ in written] == writes
    assert {one["completed_at"] for _, value, _ in written for one in value} == {SEEN.isoformat()}


def test_failed_write_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseXCom, "aset", AsyncMock(side_effect=ConnectionError))
    on_loop(report([50]))
    assert xcom._pushes == set()
