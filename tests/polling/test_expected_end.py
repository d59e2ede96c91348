"""Expected end of generations: from what is known, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_provider_seedance.polling.duration_model import kind_of
from airflow_provider_seedance.polling.expected_end import ExpectedEnd, KnownDurations
from airflow_provider_seedance.polling.wait_state import WaitState

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LIKE = [95.0 + number for number in range(10)]


def seconds_left(
    durations: list[float], *, elapsed: float = 0.0, progress: float | None = None, **known: Any
) -> float | None:
    now = NOON + timedelta(seconds=elapsed)
    end = ExpectedEnd(durations, **known).at(NOON, now, progress)
    return None if end is None else (end - now).total_seconds()


def test_renders_take_as_long_as_earlier_ones() -> None:
    assert seconds_left(LIKE) == pytest.approx(100, abs=8)
    assert (seconds_left(LIKE, elapsed=120) or 0) > 0
    # Of what is not known, nothing is said.
    assert seconds_left(LIKE, elapsed=1e9) is None
    assert seconds_left([]) is None
    assert seconds_left([], elapsed=30, progress=1.0) is None


def test_the_service_may_estimate_and_report_progress() -> None:
    assert seconds_left([], estimated_wait=300) == pytest.approx(300, abs=150)
    assert seconds_left(LIKE, elapsed=30, progress=25.0) == 90


def wait(resolution: str, submitted: float | None = 0.0) -> WaitState:
    at = None if submitted is None else NOON.timestamp() + submitted
    known = {"submitted_at": at, "result_defaults": {"resolution": resolution}}
    return WaitState(generation_id="g", media="video", deadline=0.0, **known)


def durations(base_url: str, kinds: Iterable[str]) -> dict[str, list[float]]:
    assert base_url == "https://service.example"
    return {kind: LIKE for kind in kinds if kind == kind_of("video", {"resolution": "720p"})}


def test_each_kind_of_a_batch_is_read_once() -> None:
    known = KnownDurations(read := Mock(side_effect=durations))
    kind, other = kind_of("video", {"resolution": "720p"}), kind_of("video", {"resolution": "4k"})
    for _ in range(2):
        found = known.of("https://service.example", [wait("720p"), wait("720p"), wait("4k")])
        assert found == {kind: LIKE}
    assert [set(call.args[1]) for call in read.call_args_list] == [{kind, other}]


def test_a_batch_ends_with_the_last_of_its_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_seedance.polling.expected_end.utc_now", lambda: NOON)
    known = KnownDurations(durations)

    def last_end(*waits: WaitState) -> float | None:
        end = known.last_end([("https://service.example", wait) for wait in waits])
        return None if end is None else end - NOON.timestamp()

    assert last_end(wait("720p", -60.0), wait("720p", -20.0)) == pytest.approx(80, abs=8)
    assert last_end(wait("720p", None)) == pytest.approx(100, abs=8)
    assert last_end(wait("720p"), wait("4k")) is None
    assert last_end() is None
