"""The wait for many generations in simulated time: when enough have ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling import wait_many as module
from airflow_provider_seedance.polling.wait_many import WaitResult, wait_for_many
from airflow_provider_seedance.polling.wait_state import WaitState, WaitStep
from polling.simulated import CONN, EPOCH, passed, simulate

LATER = EPOCH + 7200.0


async def look_up(conn_id: str) -> Any:
    raise AssertionError("only the hub looks connections up")


class Hub:
    """Fake hub, in which generations end at the times that a test passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.ends: dict[str, tuple[float, Any]] = {}
        #: Seconds until a submission is granted.
        self.grant = 1e9
        self.waits: list[tuple[WaitState, str, Any, dict[str, Any]]] = []
        self.submissions: list[tuple[float, str | None, Any]] = []
        self.left: list[str] = []
        monkeypatch.setattr(module, "wait_for_generation", self.wait)
        monkeypatch.setattr(module, "wait_for_submission", self.wait_for_submission)

    async def wait(self, state: WaitState, conn_id: str, look_up: Any, **more: Any) -> WaitStep:
        self.waits.append((state, conn_id, look_up, more))
        generation_id = state.generation_id
        at, kind = self.ends[generation_id]
        try:
            await asyncio.sleep(at - passed())
        except asyncio.CancelledError:
            self.left.append(generation_id)
            raise
        status = GenerationStatus.SUCCEEDED
        last = Generation(generation_id=generation_id, api="ark", media="video", status=status)
        return WaitStep(kind, replace(state, last=last) if kind == "ended" else state)

    async def wait_for_submission(self, not_before: float, conn_id: str | None, look_up: Any) -> None:
        self.submissions.append((not_before, conn_id, look_up))
        await asyncio.sleep(self.grant)

    def collect(
        self, known: dict[str, Any] | None = None, *, ends: dict[str, Any], **options: Any
    ) -> tuple[WaitResult, float]:
        """
        Wait for generations; return the result, and when it came.

        :param known: More fields of each wait.
        :param ends: Seconds to the end of each generation, with its kind unless that is ``ended``.
        """
        self.ends = {name: end if isinstance(end, tuple) else (end, "ended") for name, end in ends.items()}
        pending = [
            WaitState(generation_id=name, media="video", deadline=LATER, **(known or {})) for name in ends
        ]
        options = {"min_ended": 1, "max_linger": 30.0, "max_quota_wait": 50.0, **options}

        async def main() -> tuple[WaitResult, float]:
            result = await wait_for_many([(CONN, state) for state in pending], look_up, **options)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result, passed()

        found: tuple[WaitResult, float] = simulate(self.monkeypatch, main())
        return found


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def ids(result: WaitResult) -> list[str]:
    return [generation.generation_id for _, generation in result.ended]


@pytest.mark.parametrize(
    ("options", "expected", "at"),
    [
        # Enough have ended, or some time has passed since the first.
        ({"min_ended": 1}, ["a"], 10.0),
        ({"min_ended": 2}, ["a", "b"], 25.0),
        ({"min_ended": 3}, ["a", "b"], 40.0),
        ({"min_ended": 3, "max_linger": 5.0}, ["a"], 15.0),
        ({"min_ended": 3, "max_linger": 300.0}, ["a", "b", "c"], 100.0),
        # More than there are is all of them.
        ({"min_ended": 9, "max_linger": 300.0}, ["a", "b", "c"], 100.0),
        # Those that have ended by the earliest time are returned together.
        ({"min_ended": 1, "min_seconds": 30.0}, ["a", "b"], 30.0),
        ({"min_ended": 3, "min_seconds": 30.0, "max_linger": 300.0}, ["a", "b", "c"], 100.0),
    ],
)
def test_a_wait_ends_when_enough_have_ended(
    hub: Hub, options: dict[str, Any], expected: list[str], at: float
) -> None:
    result, moment = hub.collect(ends={"a": 10.0, "b": 25.0, "c": 100.0}, **options)
    assert (ids(result), moment) == (expected, at)
    assert len(result) == len(expected)
    assert (result.submission_granted, hub.submissions) == (False, [])
    # The other waits have ended, too.
    assert sorted(hub.left) == sorted({"a", "b", "c"} - set(expected))


def test_every_kind_of_end_counts(hub: Hub) -> None:
    ends = {"a": (1.0, "unknown"), "b": (2.0, "deadline"), "c": 3.0}
    result, moment = hub.collect(ends=ends, min_ended=3)
    assert (ids(result), result.unknown, result.overdue) == (["c"], [(CONN, "a")], [(CONN, "b")])
    assert (len(result), moment) == (3, 3.0)


def test_a_granted_submission_ends_the_wait(hub: Hub) -> None:
    hub.grant = 20.0
    wanted = {"submit_conn_id": "other", "submit_not_before": EPOCH + 12.0}
    result, moment = hub.collect(ends={"a": 10.0, "b": 50.0}, min_ended=2, max_linger=1000.0, **wanted)
    assert (result.submission_granted, ids(result), moment) == (True, ["a"], 20.0)
    assert hub.submissions == [(EPOCH + 12.0, "other", look_up)]
    # With nothing in flight, it is all there is to wait for.
    result, moment = hub.collect(ends={}, submit_not_before=EPOCH)
    assert (result.submission_granted, len(result), moment) == (True, 0, 20.0)


def test_every_generation_is_waited_for_as_a_single_one(hub: Hub) -> None:
    known = {"submitted_at": EPOCH - 50.0, "estimated_wait": 90.0, "result_defaults": {"model": "m"}}
    hub.collect(known, ends={"a": 10.0}, min_seconds=3.0)
    state = WaitState(generation_id="a", media="video", deadline=LATER, max_quota_wait=50.0, **known)
    assert hub.waits == [(state, CONN, look_up, {"not_before": 3.0})]


def test_the_number_of_ended_generations_is_reported_every_minute(hub: Hub) -> None:
    reports: list[tuple[float, int, int]] = []
    options = {"ends": {"a": 50.0, "b": 130.0, "c": 250.0}, "min_ended": 3, "max_linger": 1000.0}
    result, _ = hub.collect(report=lambda *counts: reports.append((passed(), *counts)), **options)
    assert len(result) == 3
    assert reports == [(60.0, 1, 3), (120.0, 1, 3), (180.0, 2, 3), (240.0, 2, 3)]
    assert len(hub.collect(**options)[0]) == 3
