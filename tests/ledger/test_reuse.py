"""Reuse: the same request of several tasks is paid for once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import set_submission_timing
from operators.batch_runner import Batch
from support import TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, utc_now
from airflow_provider_seedance.ledger import open_store, record_end
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.configuration import default_timezone
from airflow_provider_seedance.ledger.spending import spend
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, ReuseSearch, SubmissionDetails

from . import record_samples as samples
from .reusing_task import Task, posts, waiting_pair
from .rows import configured, recorded

Connect = Callable[..., None]
Batches = Callable[[int], Batch]

pytestmark = pytest.mark.usefixtures("connected")


def total() -> Any:
    (group,) = spend(configured(), Filter(), ["namespace"], default_timezone())
    return group["credits"], group["reserved_credits"]


# ---------------------------------------------------------------------- what has succeeded


def test_another_dag_gets_what_was_paid_for(
    services: SeedanceEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    paid = Task(1, "first").run(reuse="task")
    got = Task(2, "second").run()
    assert got["generation_id"] == paid["generation_id"]
    assert (got["credits"], got["cost_usd"]) == (0, 0)
    assert paid["reused_from"] is None
    assert got["reused_from"] == {"dag_id": "first", "run_id": "run", "task_id": "task", "map_index": 1}
    assert (
        "The same request was paid for by task 'task' of run 'run' of Dag 'first' at connection 'seedance_default': "
        f"generation {paid['generation_id']} is reused."
    ) in caplog.messages
    assert posts(services) == 1
    assert total() == (paid["credits"], 0)


def test_dag_looks_in_its_own_dag_only(services: SeedanceEmulator) -> None:
    Task(1, "first").run()
    assert Task(2, "second").run(reuse="dag")["reused_from"] is None
    assert Task(3, "second").run(reuse="dag")["reused_from"]["map_index"] == 2
    assert posts(services) == 2


@pytest.mark.parametrize("other", [{"prompt": "Another"}, {"duration": 12}, {"seedance_conn_id": "other"}])
def test_another_request_or_connection_is_not_the_same(
    services: SeedanceEmulator, connect: Connect, other: dict[str, Any]
) -> None:
    connect("seedanceapi-v1", conn_id="other")
    Task(1).run()
    assert Task(2).run(**other)["reused_from"] is None
    assert posts(services) == 2


@pytest.mark.parametrize("fate", ["fail", "expire", "cancel_remote", "forget", "uncertain"])
def test_what_cannot_be_delivered_is_paid_for_again(services: SeedanceEmulator, fate: str) -> None:
    payer = Task(1)
    if fate == "forget":
        services.forget(payer.run()["generation_id"])
    elif fate == "uncertain":
        services.fault("drop_reply")
        with pytest.raises(errors.SeedanceUncertainSubmitError):
            payer.run()
    else:
        services.hold()
        message = {"message": "no"} if fate == "fail" else {}
        getattr(services, fate)(payer.defer().trigger.generation_id, **message)
        services.release()
        with pytest.raises(errors.SeedanceError):
            payer.resume()
    assert Task(2).run()["reused_from"] is None
    assert posts(services) == 2


def test_a_take_that_a_clear_wants_is_paid_for(services: SeedanceEmulator) -> None:
    Task(1).run()
    task = Task(2)
    task.run()
    task.ti.clear()
    assert task.run()["reused_from"]
    task.ti.clear()
    assert task.run(on_clear="new")["reused_from"] is None
    assert posts(services) == 2


def test_a_request_that_changed_back_is_reused_again(services: SeedanceEmulator) -> None:
    Task(1, prompt="first").run()
    task = Task(2, prompt="first")
    task.run()
    for prompt, posted in (("second", 2), ("first", 2)):
        task.ti.clear()
        assert (task.run(prompt=prompt)["reused_from"] is None) is (prompt == "second")
        assert posts(services) == posted


def test_without_a_ledger_it_is_refused(services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__SEEDANCE__LEDGER")
    with pytest.raises(errors.SeedanceConfigurationError, match="reuse='any' needs a ledger"):
        Task(1).run()
    assert posts(services) == 0


# ---------------------------------------------------------------------- in flight


def test_a_render_in_flight_is_waited_for(services: SeedanceEmulator) -> None:
    first, second = waiting_pair(services)
    trigger = second.deferred.trigger
    assert trigger.generation_id == first.deferred.trigger.generation_id
    assert (first.deferred.trigger.cancel_on_kill, trigger.cancel_on_kill) == (True, False)
    services.release()
    got, paid = second.resume(), first.resume()
    assert (got["generation_id"], got["credits"], paid["credits"]) == (paid["generation_id"], 0, 28)
    assert posts(services) == 1
    assert total() == (28, 0)


@pytest.mark.parametrize("payer_first", [True, False])
def test_if_the_payer_fails_the_other_one_submits(services: SeedanceEmulator, payer_first: bool) -> None:
    services.fault("fail", message="no")
    payer, other = waiting_pair(services)
    services.release()
    got = None if payer_first else other.resume()
    with pytest.raises(errors.SeedanceGenerationFailedError):
        payer.resume()
    got = got or other.resume()
    assert (got["reused_from"], got["credits"]) == (None, 28)
    assert got["generation_id"] != payer.deferred.trigger.generation_id
    assert posts(services) == 2


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_retry_delivers_what_another_task_had_paid_for(services: SeedanceEmulator, cancelled: bool) -> None:
    first, second = waiting_pair(services)
    if cancelled:
        services.cancel_remote(first.deferred.trigger.generation_id)
    services.release()
    second.ti.retry()
    got = second.run()
    payer = got["reused_from"] and got["reused_from"]["map_index"]
    assert (got["credits"], payer) == ((28, None) if cancelled else (0, 1))
    assert posts(services) == 1 + cancelled


def intent(number: int, **changes: Any) -> Any:
    """Write the intent of a task."""
    store = open_store(make_context(None, TaskInstance(map_index=number)))
    record = rec.replace(samples.intent(f"{number}", credits=14), **{"intended_at": utc_now(), **changes})
    search = ReuseSearch(scope="any", intents={"k": record})
    details = SubmissionDetails(prompt="x", reuse=search, reuse_key="k")
    return store, store.write_intent(GENERATION_KEY, record, details)


def test_a_submission_without_an_id_is_waited_for(services: SeedanceEmulator) -> None:
    store, record = intent(1)
    with pytest.raises(errors.SeedanceRateLimitError, match="is submitting the same request") as caught:
        intent(2)
    assert caught.value.retry_after
    store.write(GENERATION_KEY, rec.with_id(record, "g1"))
    _, other = intent(2)
    assert (other.generation_id, other.result_defaults["credits"]) == ("g1", 0)


def test_the_end_of_one_task_does_not_change_the_cost_of_the_other(services: SeedanceEmulator) -> None:
    first, _ = waiting_pair(services)
    services.release()
    paid = first.resume()
    record_end(Generation.from_result(paid))
    rows = {row["map_index"]: row for row in recorded()}
    assert (rows[1]["credits"], rows[2]["state"]) == (28, "submitted")


# ---------------------------------------------------------------------- at the same moment


def test_tasks_that_submit_at_the_same_moment_pay_once(any_ledger: Any) -> None:
    open_store(make_context(None)).load()  # the tables

    def submit(number: int) -> bool:
        try:
            store, record = intent(number)
        except errors.SeedanceRateLimitError:
            return False
        if record.state is rec.RecordState.INTENT:
            store.write(GENERATION_KEY, rec.with_id(record, f"g{number}"))
        return bool(record.state is rec.RecordState.INTENT)

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(submit, range(12))) == 1


def test_workers_that_submit_at_the_same_moment_pay_once(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_submission_timing(monkeypatch, reuse_backoff=(0.05,) * 200)
    open_store(make_context(None)).load()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: Task(number).run(), range(4)))
    assert posts(services) == 1
    assert sorted(result["credits"] for result in results) == [0, 0, 0, 28]


# ---------------------------------------------------------------------- batches


def test_a_batch_reuses_what_another_one_paid_for(services: SeedanceEmulator, batch: Batches) -> None:
    first = batch(1).run(["a", "b", "b"], reuse="any")
    assert first["credits"] == 3 * 28  # identical requests of one list are distinct takes
    second = batch(2).run(["b", "c"], reuse="any")
    assert [one["credits"] for one in second["succeeded"]] == [0, 28]
    assert second["succeeded"][0]["reused_from"]["map_index"] == 1
    assert posts(services) == 4


def test_identical_requests_of_a_batch_reuse_distinct_takes(
    services: SeedanceEmulator, batch: Batches
) -> None:
    takes = batch(1).run(["a", "a"], reuse="any")["succeeded"]
    got = batch(2).run(["a", "a", "a"], reuse="any")["succeeded"]
    assert sorted(one["credits"] for one in got) == [0, 0, 28]
    assert len({one["generation_id"] for one in got}) == 3
    assert {one["generation_id"] for one in takes} < {one["generation_id"] for one in got}
    assert posts(services) == 3


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
