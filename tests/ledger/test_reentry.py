"""The re-entry table, cell by cell, with a ledger: the task state is discarded before every entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.submission.submitter import Submission

from .discarding_task import DiscardingTask

Connect = Callable[..., None]

#: The last render is delivered, another one is submitted, or the task fails.
DELIVERED, ANEW = "delivered", "anew"


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, ledger: Path) -> DiscardingTask:
    connect("ark")
    services.hold()
    return DiscardingTask(services)


def leave_behind(task: DiscardingTask, situation: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Submit, and bring about a situation; returns the arguments of the next try."""
    emulator = task.emulator
    if situation.startswith("uncertain"):
        emulator.fault("drop_reply")
        monkeypatch.setattr("airflow_provider_seedance.apis.ark.Ark.can_look_up", False)
        with monkeypatch.context() as lost:
            if situation == "uncertain, not reported":
                lost.setattr(Submission, "report_uncertain", lambda *_: None)
            with pytest.raises(errors.SeedanceUncertainSubmitError):
                task.execute()
        return {}
    task.defer()
    (made,) = emulator.ledger.submissions
    bring_about: dict[str, Callable[[str], object]] = {
        "succeeded": emulator.finish,
        "failed": lambda generation_id: emulator.fail(generation_id, "GPU on fire"),
        "expired": emulator.expire,
        "cancelled": emulator.cancel_remote,
        "unknown to the service": emulator.forget,
        "unreadable": lambda _: emulator.fault("gateway_error", "status", times=3),
    }
    if situation in bring_about:
        bring_about[situation](made.generation_id)
    return {"prompt": "Another one"} if situation == "another request" else {}


@pytest.mark.parametrize(
    ("situation", "after_a_retry", "after_a_clear"),
    [
        ("running", DELIVERED, DELIVERED),
        ("succeeded", DELIVERED, DELIVERED),
        ("failed", ANEW, ANEW),
        ("expired", ANEW, ANEW),
        ("cancelled", errors.SeedanceGenerationCancelledError, ANEW),
        ("unreadable", DELIVERED, DELIVERED),
        ("unknown to the service", errors.SeedanceNotFoundError, ANEW),
        ("another request", errors.SeedanceRequestChangedError, ANEW),
        ("uncertain, not reported", errors.SeedanceUncertainSubmitError, errors.SeedanceUncertainSubmitError),
        ("uncertain", errors.SeedanceUncertainSubmitError, ANEW),
    ],
)
@pytest.mark.parametrize(
    ("again", "below_3_4"), [("retry", False), ("clear", False), ("run_again", True)], ids=str
)
def test_every_cell_holds(
    task: DiscardingTask,
    situation: str,
    after_a_retry: Any,
    after_a_clear: Any,
    again: str,
    below_3_4: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", not below_3_4)
    arguments = leave_behind(task, situation, monkeypatch)
    expected = after_a_retry if again == "retry" else after_a_clear
    getattr(task, again)()
    task.emulator.release()
    if isinstance(expected, type):
        with pytest.raises(expected):
            task.execute(**arguments)
    else:
        assert task.execute(**arguments)["status"] == "succeeded"
    assert task.posts == (2 if expected == ANEW else 1)
    assert "Keep task state" not in caplog.text
