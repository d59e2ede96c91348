"""The table's rows "id, same fingerprint": what a retry and a clear do, by what the service says of the render."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .airflow_fixture import STANDS_AFTER_ID, AirflowFixture, Task, first_of

pytestmark = pytest.mark.side_by_side


def _left_behind(
    airflow: AirflowFixture, how: str, conn_id: str = "ark", **arguments: Any
) -> tuple[Task, str]:
    """A task whose first worker stands after the id was recorded, without having seen how it goes on."""
    boat = airflow.video(
        conn_id, retries=1 if how == "retry" else 0, arguments={**STANDS_AFTER_ID, **arguments}
    ).start()
    return boat, str(boat.until_recorded())


def _succeeded_yesterday(boat: Task, generation_id: str, **content: str) -> None:
    """Let ark say so, with or without an output."""
    ended = int((datetime.now(UTC) - timedelta(hours=25)).timestamp())
    body = {
        "id": generation_id,
        "model": "dreamina-seedance-2-0-260128",
        "status": "succeeded",
        "created_at": ended - 60,
        "updated_at": ended,
        "content": content,
    }
    boat.fault("rubbish", on="status", generation_id=generation_id, times=None, body=body, accept=False)


# ---------------------------------------------------------------------- queued, running, succeeded


@pytest.mark.parametrize("how", first_of("retry", "clear"))
@pytest.mark.parametrize("conn_id", first_of("ark_queue", "ark"))
def test_a_running_render_is_waited_for(airflow: AirflowFixture, conn_id: str, how: str) -> None:
    boat, paid = _left_behind(airflow, how, conn_id)
    status = "queued" if conn_id == "ark_queue" else "running"
    boat.until_remote(status)
    boat.enter_again(how)
    boat.until_says(f"Generation {paid} was submitted before and is {status}", try_number=2)
    boat.deliver(paid, try_number=2)


def test_a_running_render_is_waited_for_even_with_on_clear_new(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "clear", on_clear="new")
    boat.enter_again("clear")
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.deliver(paid, try_number=2)


@pytest.mark.parametrize("on_clear", ["reuse", "new"])
def test_a_retry_delivers_at_the_cost_of_one_status_request(airflow: AirflowFixture, on_clear: str) -> None:
    boat, paid = _left_behind(airflow, "retry", on_clear=on_clear)
    boat.finish()
    boat.kill()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)
    assert len(boat.requests("status")) == 1
    boat.until_says(f"Generation {paid} succeeded before: delivering it, nothing is paid.", try_number=2)
    assert "on_clear='new'" not in boat.log(2)


# ---------------------------------------------------------------------- ended

STATES: dict[str, Callable[[Task, str], object]] = {
    "failed": lambda boat, paid: boat.emulator.fail(paid, "The renderer broke down."),
    "expired": lambda boat, paid: boat.emulator.expire(paid),
    "cancelled": lambda boat, paid: boat.emulator.cancel_remote(paid),
    "unknown": lambda boat, paid: boat.emulator.forget(paid),
    "succeeded": lambda boat, paid: boat.emulator.finish(paid),
    "output expired": lambda boat, paid: _succeeded_yesterday(
        boat, paid, video_url="https://old.example/0.mp4"
    ),
    "without output": _succeeded_yesterday,
}

ANEW = "Generation {} ended as %s: submitting anew"
GONE = "Generation {} succeeded, but its output is gone"


def _reach(
    airflow: AirflowFixture, state: str, how: str, sentence: str, **arguments: Any
) -> tuple[Task, str]:
    """Enter a task again whose render is in this state; its log says so."""
    boat, paid = _left_behind(airflow, how, "ark_queue" if state == "cancelled" else "ark", **arguments)
    STATES[state](boat, paid)
    boat.enter_again(how)
    boat.until_says(sentence.format(paid), try_number=2)
    return boat, paid


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("cancelled", "Generation {} was cancelled at the service by a person"),
        ("unknown", "Generation {} was submitted by this task, but the service does not know it"),
        *first_of(
            ("output expired", "Generation {} succeeded and was billed, but its output is gone"),
            ("without output", "Generation {} succeeded and was billed, but its output is gone"),
        ),
    ],
)
def test_a_retry_fails_for_good(airflow: AirflowFixture, state: str, sentence: str) -> None:
    boat, _ = _reach(airflow, state, "retry", sentence)
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)


@pytest.mark.parametrize(
    ("state", "how", "on_clear", "sentence"),
    [
        ("cancelled", "clear", "reuse", ANEW % "cancelled"),
        ("unknown", "clear", "reuse", "The service does not know generation {}"),
        ("succeeded", "clear", "new", "on_clear='reuse' would deliver the old one"),
        *first_of(
            ("failed", "retry", "reuse", ANEW % "failed"), ("failed", "clear", "reuse", ANEW % "failed")
        ),
        *first_of(
            ("expired", "clear", "reuse", ANEW % "expired"), ("expired", "retry", "reuse", ANEW % "expired")
        ),
        *first_of(
            ("output expired", "clear", "reuse", GONE),
            ("output expired", "clear", "new", GONE),
            ("without output", "clear", "reuse", GONE),
            ("without output", "clear", "new", GONE),
        ),
    ],
)
def test_it_is_submitted_again(
    airflow: AirflowFixture, state: str, how: str, on_clear: str, sentence: str
) -> None:
    boat, _ = _reach(airflow, state, how, sentence, on_clear=on_clear)
    boat.submit_anew()


# ---------------------------------------------------------------------- unreadable


@pytest.mark.parametrize("how", first_of("retry", "clear"))
@pytest.mark.parametrize("status", first_of(401, 500, 403, 429, 502))
def test_an_unreadable_state_is_waited_out(airflow: AirflowFixture, status: int, how: str) -> None:
    boat, paid = _left_behind(airflow, how, on_clear="new")
    about: dict[str, Any] = {"on": "status", "generation_id": paid, "times": None}
    if status == 429:
        fault = boat.fault("rate_limit", retry_after=1, **about)
    elif status == 502:
        fault = boat.fault("gateway_error", status=502, **about)
    else:
        fault = boat.fault("refuse", status=status, message="not now", **about)
    boat.enter_again(how)
    boat.until_says(f"Generation {paid} was submitted before; its state cannot be read now", try_number=2)
    read = fault.used
    boat.until_struck(fault, read + 2)  # nor does the wait give up
    boat.finish()
    fault.remove()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)
