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


def _enter_again(boat: Task, how: str) -> None:
    """Lose the worker; then Airflow retries, or a person clears the failed task."""
    boat.kill()
    if how == "clear":
        boat.until("failed")
        boat.clear()


def _succeeded_body(generation_id: str, **fields: Any) -> dict[str, Any]:
    """Return ark's state of a render that ended yesterday."""
    ended = int((datetime.now(UTC) - timedelta(hours=25)).timestamp())
    return {
        "id": generation_id,
        "model": "dreamina-seedance-2-0-260128",
        "status": "succeeded",
        "created_at": ended - 60,
        "updated_at": ended,
        **fields,
    }


def _expired(boat: Task, generation_id: str) -> None:
    body = _succeeded_body(generation_id, content={"video_url": "https://outputs.example.com/0.mp4"})
    boat.fault("rubbish", on="status", generation_id=generation_id, times=None, body=body, accept=False)


def _without_output(boat: Task, generation_id: str) -> None:
    body = _succeeded_body(generation_id, content={})
    boat.fault("rubbish", on="status", generation_id=generation_id, times=None, body=body, accept=False)


# ---------------------------------------------------------------------- queued, running


@pytest.mark.parametrize("how", first_of("retry", "clear"))
@pytest.mark.parametrize("conn_id", first_of("ark_queue", "ark"))
def test_a_running_render_is_waited_for(airflow: AirflowFixture, conn_id: str, how: str) -> None:
    boat, paid = _left_behind(airflow, how, conn_id)
    status = "queued" if conn_id == "ark_queue" else "running"
    boat.until_remote(status)
    _enter_again(boat, how)
    boat.until_says(f"Generation {paid} was submitted before and is {status}", try_number=2)
    boat.emulator.finish(paid)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_a_running_render_is_waited_for_even_with_on_clear_new(
    airflow: AirflowFixture,
) -> None:
    boat, paid = _left_behind(airflow, "clear", on_clear="new")
    _enter_again(boat, "clear")
    boat.until_says("waiting for it, not submitting again", try_number=2)
    boat.emulator.finish(paid)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_a_retry_can_wait_without_a_worker(airflow: AirflowFixture) -> None:
    boat = airflow.video(
        "ark", retries=1, arguments=STANDS_AFTER_ID, later={"deferrable": True, "poll_interval": 1}
    ).start()
    paid = boat.until_recorded()
    boat.kill()
    boat.until("deferred", try_number=2)
    boat.emulator.finish(str(paid))
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


# ---------------------------------------------------------------------- succeeded


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_an_output_is_delivered_at_the_cost_of_one_status_request(airflow: AirflowFixture, how: str) -> None:
    boat, paid = _left_behind(airflow, how)
    boat.emulator.finish(paid)
    _enter_again(boat, how)
    boat.until("success", try_number=2)
    boat.check_delivered(paid)
    assert len(boat.requests("status")) == 1
    boat.check_says(f"Generation {paid} succeeded before: delivering it, nothing is paid.", try_number=2)
    assert ("on_clear='new'" in boat.log(2)) == (how == "clear")


def test_on_clear_new_makes_another_take_after_a_clear(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "clear", on_clear="new")
    boat.emulator.finish(paid)
    _enter_again(boat, "clear")
    _ends_as_another_one(boat, paid, "on_clear='reuse' would deliver the old one")


def test_on_clear_new_does_not_apply_to_a_retry(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "retry", on_clear="new")
    boat.emulator.finish(paid)
    _enter_again(boat, "retry")
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


@pytest.mark.parametrize("gone", first_of(_expired, _without_output))
def test_a_retry_fails_for_good_when_the_output_is_gone(
    airflow: AirflowFixture, gone: Callable[[Task, str], None]
) -> None:
    boat, paid = _left_behind(airflow, "retry")
    gone(boat, paid)
    _enter_again(boat, "retry")
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says(f"Generation {paid} succeeded and was billed, but its output is gone", try_number=2)


@pytest.mark.parametrize("gone", first_of(_expired, _without_output))
@pytest.mark.parametrize("on_clear", first_of("reuse", "new"))
def test_a_cleared_task_submits_again_when_the_output_is_gone(
    airflow: AirflowFixture, gone: Callable[[Task, str], None], on_clear: str
) -> None:
    boat, paid = _left_behind(airflow, "clear", on_clear=on_clear)
    gone(boat, paid)
    _enter_again(boat, "clear")
    _ends_as_another_one(boat, paid, f"Generation {paid} succeeded, but its output is gone")


# ---------------------------------------------------------------------- failed, expired, cancelled


@pytest.mark.parametrize("how", first_of("retry", "clear"))
def test_a_failed_render_is_submitted_again(airflow: AirflowFixture, how: str) -> None:
    boat, paid = _left_behind(airflow, how)
    boat.emulator.fail(paid, "The renderer broke down.")
    _enter_again(boat, how)
    _ends_as_another_one(boat, paid, f"Generation {paid} ended as failed: submitting anew")


@pytest.mark.parametrize("how", first_of("clear", "retry"))
def test_an_expired_render_is_submitted_again(airflow: AirflowFixture, how: str) -> None:
    boat, paid = _left_behind(airflow, how)
    boat.emulator.expire(paid)
    _enter_again(boat, how)
    _ends_as_another_one(boat, paid, f"Generation {paid} ended as expired: submitting anew")


def test_a_retry_does_not_repeat_a_render_that_a_user_cancelled(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "retry", "ark_queue")
    boat.emulator.cancel_remote(paid)
    _enter_again(boat, "retry")
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says(f"Generation {paid} was cancelled at the service by a person", try_number=2)


def test_a_cleared_task_repeats_a_render_that_a_user_cancelled(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "clear", "ark_queue")
    boat.emulator.cancel_remote(paid)
    _enter_again(boat, "clear")
    _ends_as_another_one(boat, paid, f"Generation {paid} ended as cancelled: submitting anew")


# ---------------------------------------------------------------------- unreadable, unknown


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
    _enter_again(boat, how)
    boat.until_says(f"Generation {paid} was submitted before; its state cannot be read now", try_number=2)
    read = fault.used
    boat.until_struck(fault, read + 2)  # nor does the wait give up
    boat.emulator.finish(paid)
    fault.remove()
    boat.until("success", try_number=2)
    boat.check_delivered(paid)


def test_a_retry_fails_for_good_when_the_service_does_not_know_the_render(airflow: AirflowFixture) -> None:
    boat, paid = _left_behind(airflow, "retry")
    boat.emulator.forget(paid)
    _enter_again(boat, "retry")
    boat.until("failed", try_number=2)
    boat.check("failed", posts=1)
    boat.check_says(f"Generation {paid} was submitted by this task, but the service does not know it")


def test_a_cleared_task_submits_again_when_the_service_does_not_know_the_render(
    airflow: AirflowFixture,
) -> None:
    boat, paid = _left_behind(airflow, "clear")
    boat.emulator.forget(paid)
    _enter_again(boat, "clear")
    _ends_as_another_one(boat, paid, f"The service does not know generation {paid}")


def _ends_as_another_one(boat: Task, paid: str, sentence: str) -> None:
    boat.until_says(sentence, try_number=2)
    boat.airflow.until(lambda: len(boat.taken) == 2, "a second submission", boat)
    boat.finish()
    boat.until("success", try_number=2)
    boat.check("success", posts=2)
    assert boat.result["generation_id"] == boat.generations[-1] != paid
