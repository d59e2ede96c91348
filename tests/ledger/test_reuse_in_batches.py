"""Reuse beside other items of a batch, lost replies and limits."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from operators.generation_task import CALLED, Connect
from sqlalchemy import update
from support import deferral
from transfers.results import run as transfer

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import results
from airflow_provider_seedance.client.media_client import MediaClient, MediaConnectionError
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import reconciliation
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.version_compat import TaskDeferralError

from .conftest import Batches
from .reusing_task import Task, let_a_worker_die, posts, waiting_pair
from .rows import configured, recorded

pytestmark = pytest.mark.usefixtures("connected", "same_period")


def test_identical_items_of_a_batch_reuse_distinct_takes(services: SeedanceEmulator, batch: Batches) -> None:
    first = batch(1).run(["a", "b", "b"], reuse="any")
    assert first["credits"] == 3 * 28  # they are distinct in one list, too
    second = batch(2).run(["b", "c", "b", "b"], reuse="any")["succeeded"]
    assert [one["credits"] for one in second] == [0, 28, 0, 28]
    assert second[0]["reused_from"]["map_index"] == 1
    ids = [one["generation_id"] for one in second]
    assert {ids[0], ids[2]} == {one["generation_id"] for one in first["succeeded"][1:]}
    assert ids[3] not in ids[:3]
    assert posts(services) == 5


def test_a_batch_submits_the_items_whose_payer_failed(services: SeedanceEmulator, batch: Batches) -> None:
    services.hold()
    services.fault("fail", prompt="a", message="no")
    payer, other = batch(1), batch(2)
    payer.defer(["a", "b"], reuse="any", on_item_failure="keep")
    other.before_resume = lambda deferred: services.release()
    result = other.run(["a", "b"], reuse="any")
    assert [one["credits"] for one in result["succeeded"]] == [28, 0]
    assert other.deferrals[0].trigger.billed_to == {}
    assert len(other.deferrals[0].trigger.generation_ids) == 2
    assert posts(services) == 3


def test_reused_items_do_not_hide_lost_submissions(services: SeedanceEmulator, batch: Batches) -> None:
    batch(1).run(["r1", "r2", "r3"], reuse="any")
    before = posts(services)
    for prompt in ("x1", "x2", "x3", "x4"):
        services.fault("drop_reply", prompt=prompt, times=None)
    batch(2).defer(["x1", "r1", "x2", "r2", "x3", "r3", "x4"], reuse="any", on_item_failure="keep")
    assert posts(services) - before == 2


@pytest.mark.parametrize("limit", ["max_credits", "budget", "renewing budget"])
def test_a_limit_keeps_back_what_must_be_paid_for_and_not_what_is_reused(
    services: SeedanceEmulator, connect: Connect, batch: Batches, limit: str
) -> None:
    batch(1).run(["b", "d"], reuse="any")
    before = posts(services)
    cheaper = {"prompt": "e", "duration": 4}
    arguments: dict[str, Any] = {"reuse": "any", "on_item_failure": "keep"}
    if limit == "max_credits":
        arguments["max_credits"] = 20
    else:
        # The two paid renders count.
        connect("seedanceapi-v1", budgets=[{"credits": 2 * 28 + 20, "per": "month"}])
    second = batch(2)
    if limit == "renewing budget":
        second.defer(["a", "b", cheaper, "d"], **arguments, on_budget="wait")
        assert len([row for row in recorded() if row["map_index"] == 2 and row["generation_id"]]) == 2
    else:
        result = second.run(["a", "b", cheaper, "d"], **arguments)
        assert [one["key"] for one in result["succeeded"]] == ["1", "3"]
        assert (result["not_submitted"], result["credits"]) == (["0", "2"], 0)
    assert posts(services) == before


def test_the_error_of_a_limit_keeps_no_frames_of_the_items_that_meet_it(
    batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[errors.SeedanceError] = []
    monkeypatch.setattr(results, "limit_notice", lambda _items, error: stopped.append(error) or "")
    batch(1).run(["a", "b", "c"], reuse="any", max_credits=1, on_item_failure="keep")
    assert stopped[0].__traceback__ is None


@pytest.mark.parametrize("limited", [False, True])
def test_an_item_that_another_task_submits_waits_alone(
    services: SeedanceEmulator, batch: Batches, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    let_a_worker_die(monkeypatch, prompt="same")
    services.hold()
    arguments: Any = {"max_credits": 1, "on_item_failure": "keep"} if limited else {}
    trigger = batch(2).defer(["same", "b", "c", "d"], reuse="any", **arguments).trigger
    assert posts(services) == len(trigger.generation_ids) == (0 if limited else 3)
    assert trigger.submit_not_before > time.time()


def test_an_item_is_waited_for_from_its_reuse_on(services: SeedanceEmulator, batch: Batches) -> None:
    services.hold()
    Task(1, prompt="same").defer()
    with configured().transaction() as connection:
        connection.execute(update(submissions).values(submitted_at=utc_now() - timedelta(hours=2)))
    trigger = batch(2).defer(["same"], reuse="any", timeout=7200.0).trigger
    assert trigger.generations["deadline"][0] > time.time() + 3600


@pytest.mark.parametrize("kind", ["deferred", "on the worker", "broken", "batch"])
def test_the_deadline_of_a_reused_render_names_the_task_that_pays(
    services: SeedanceEmulator, batch: Batches, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    services.hold()
    Task(1, prompt="same").defer()
    if kind == "batch":
        failed = batch(2).run(["same"], reuse="any", timeout=0.1, on_item_failure="keep")["failed"]
        message = failed[0]["error"]
    else:
        task = Task(2, prompt="same", timeout=0.1)
        end = {"on the worker": task.run, "deferred": task.resume, "broken": task.break_trigger}[kind]
        if kind != "on the worker":
            task.defer()
            time.sleep(0.1)
        with pytest.raises((errors.SeedanceTimeoutError, errors.SeedanceServerError)) as caught:
            end()
        message = caught.value.message
    payer = "task 'task' of run 'run' of Dag 'dag' (map index 1)"
    assert f"The render goes on and is billed to {payer}, not to this task; a retry waits" in message


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_a_copy_whose_path_cannot_be_recorded_is_found_again(
    services: SeedanceEmulator, batch: Batches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    paid = Task(1, prompt="same").run()
    transfer(paid, f"file://{tmp_path / 'a.mp4'}")
    services.forget(paid["generation_id"])
    if kind == "batch":
        result = batch(2).run(["same", "b"], reuse="any")
        assert [one["credits"] for one in result["succeeded"]] == [0, 28]
    else:
        task = Task(3, prompt="same")
        task.run()
        task.ti.retry()
        assert task.run()["reused_from"]
    assert posts(services) == (2 if kind == "batch" else 1)


def test_outputs_that_cannot_be_read_for_now_are_reused(
    services: SeedanceEmulator, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch(1).run(["a", "b"], reuse="any")
    before = posts(services)
    reset = MediaConnectionError("connection reset")
    monkeypatch.setattr(MediaClient, "open", Mock(side_effect=reset))
    batch(2).run(["a", "b"], reuse="any")
    assert posts(services) == before


def test_a_reused_generation_need_not_be_listed(services: SeedanceEmulator) -> None:
    Task(1, prompt="same").run()
    Task(2, prompt="same").run()
    database, now = configured(), utc_now()
    long_ago = now - timedelta(days=8)
    with database.transaction() as connection:
        connection.execute(
            update(submissions).where(submissions.c.map_index == 1).values(intended_at=long_ago)
        )
    times = (now - timedelta(days=1), now + timedelta(minutes=1))
    assert reconciliation.reconcile(database, "default", "seedance_default", [], *times) == []


def test_the_id_of_a_render_that_failed_is_not_that_of_a_lost_submission(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1", **CALLED)
    first, second = waiting_pair(services, use_callback=True)
    services.fail(first.deferred.trigger.generation_id, message="no")
    services.fault("drop_reply")
    deferral(lambda: second.resume(deferrable=True))
    with pytest.raises(TaskDeferralError):
        second.break_trigger()
    second.ti.retry()
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        second.run(use_callback=False)
    assert posts(services) == 2


def test_an_input_that_cannot_be_read_is_tried_once(
    services: SeedanceEmulator, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Mock(side_effect=MediaConnectionError("connection reset"))
    monkeypatch.setattr(MediaClient, "open", opened)
    requests = [{"prompt": prompt, "images": ["https://inputs.example/a.png"]} for prompt in "abc"]
    batch(2).defer(requests, reuse="any", on_item_failure="keep")
    assert opened.call_count == 1
    assert posts(services) == 3


def test_a_reused_render_is_not_named_as_submitted(services: SeedanceEmulator, batch: Batches) -> None:
    paid = batch(1).run(["a"], reuse="any")["succeeded"][0]["generation_id"]
    services.fault("refuse", prompt="bad")
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        batch(2).run(["a", "bad"], reuse="any")
    assert paid not in str(caught.value)


def test_a_refusal_after_a_reused_render_failed_does_not_name_it_as_submitted_by_the_task(
    services: SeedanceEmulator,
) -> None:
    services.fault("fail", message="no")
    _, second = waiting_pair(services)
    services.release()
    services.fault("refuse")
    with pytest.raises(errors.SeedanceRequestError) as caught:
        second.resume()
    assert "submitted by this task" not in str(caught.value)
