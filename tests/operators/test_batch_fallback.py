"""One batch, two connections: each item is made by the first one that takes it, and is paid for once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import TaskInstanceState
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from helpers import set_submission_timing
from support import killed, on_loop

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.emulator.services import seedance2api
from airflow_provider_seedance.operators import batch_run
from operators.batch_runner import keys, kinds, lines
from operators.fallback_task import FALLBACK, FINAL, LIMITED, PASSING, PRIMARY, UNCERTAIN, FallbackBatch
from operators.generation_task import Connect, Killed

RECORDED = pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)

#: The outcomes of items, each after one that is accepted: two uncertain ones in a row would stop the batch.
ITEMS = [prompt for outcome in FINAL for prompt in (f"before {outcome}", outcome)]

ACCEPTED = sorted(prompt for prompt in ITEMS if prompt not in FINAL)

#: Prompts of the renders that may be billed.
BILLED = sorted([*ACCEPTED, "lost reply", "rubbish"])


@pytest.fixture
def batch(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> FallbackBatch:
    monkeypatch.setattr(flows, "FALLBACK_AFTER_SECONDS", 0.0)
    return FallbackBatch(services, start_emulator(), connect).connected(monkeypatch)


@pytest.mark.parametrize("first", PASSING)
def test_items_that_the_first_connection_refuses_meet_the_second(batch: FallbackBatch, first: str) -> None:
    batch.meet(PRIMARY, first)
    for outcome in FINAL:
        batch.meet(FALLBACK, outcome, outcome)
    result = batch.run(ITEMS, fps=24)
    assert [entry["seedance_conn_id"] for entry in result["succeeded"]] == [FALLBACK] * len(ACCEPTED)
    failures = dict(kinds(result))
    assert [failures[str(ITEMS.index(outcome))] for outcome in UNCERTAIN] == ["uncertain"] * len(UNCERTAIN)
    assert len(failures) == len(FINAL)
    assert batch.bills_at == ([], BILLED)
    assert batch.posts_at[1] == len(ITEMS)


def test_items_that_the_first_connection_may_have_taken_stay_there(batch: FallbackBatch) -> None:
    for outcome, fault in FINAL.items():
        batch.primary.fault(**{**fault, "prompt": outcome})
    result = batch.run(ITEMS)
    assert len(result["succeeded"]) == len(ACCEPTED)
    failures = dict(kinds(result))
    assert [failures[str(ITEMS.index(outcome))] for outcome in UNCERTAIN] == ["uncertain"] * len(UNCERTAIN)
    assert batch.bills_at == (BILLED, [])
    assert batch.posts_at == (len(ITEMS), 0)
    # Even if it refuses what a retry, and a person's clear, submit again.
    batch.meet(PRIMARY, "402")
    for again in (batch.retry, batch.clear):
        with suppress(errors.SeedanceError):
            again()
        assert not set(batch.bills_at[1]) & set(UNCERTAIN)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(PASSING, PASSING)])
def test_items_that_no_connection_takes_are_not_billed(batch: FallbackBatch, first: str, second: str) -> None:
    batch.meet(PRIMARY, first)
    batch.meet(FALLBACK, second)
    error = batch.begin(["a", "b", "c", "d"], fps=24)
    assert batch.bills_at == ([], [])
    waits = {first, second} & {*LIMITED, "503", "unreachable"}
    if waits:
        assert error is None
        assert batch.deferred.trigger.submit_conn_id in (PRIMARY, FALLBACK)
        assert batch.waits_at == {}
    else:
        assert error or first == second == "unfit"
    # A connection that refuses every item is not sent each of them.
    for conn_id, outcome in ((PRIMARY, first), (FALLBACK, second)):
        most = {"unreachable": 0, "unfit": 0, "403": 3}.get(outcome, 1)
        assert len(batch.at(conn_id).ledger.posts()) <= most


def test_each_item_is_made_by_the_first_connection_that_takes_it(batch: FallbackBatch, kept: str) -> None:
    batch.meet(PRIMARY, "403", "b")
    result = batch.run(["a", "b", "c"], max_in_flight=2)
    assert [entry["seedance_conn_id"] for entry in result["succeeded"]] == [PRIMARY, FALLBACK, PRIMARY]
    assert batch.bills_at == (["a", "c"], ["b"])


@pytest.mark.parametrize(
    ("kept", "refused"), [("task state", "a"), ("ledger", "b"), ("no store", "a")], indirect=["kept"]
)
def test_two_services_may_give_the_same_generation_id(
    batch: FallbackBatch, kept: str, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(seedance2api.uuid, "uuid4", lambda: "same")
    batch.meet(PRIMARY, "403", refused)
    batch.fallback.fault("fail", prompt=refused, message="too windy")
    result = batch.run(["a", "b"])
    made, failed = ("1", "0") if refused == "a" else ("0", "1")
    assert keys(result["succeeded"]) == [made]
    assert result["succeeded"][0]["url"].startswith(batch.primary.url)
    assert kinds(result) == [(failed, "failed")]
    assert {entry["generation_id"] for entry in (*result["succeeded"], *result["failed"])} == {"task-same"}


def test_the_record_names_the_connection_and_those_passed_over(batch: FallbackBatch) -> None:
    batch.hold()
    batch.meet(PRIMARY, "402")
    assert batch.begin(["a", "b"]) is None
    records = batch.op._run(batch.context).records.records().values()
    assert [record.conn_id for record in records] == [FALLBACK, FALLBACK]
    passed_over = {PRIMARY: "SeedanceInsufficientCreditsError"}
    assert [record.passed_over for record in records] == [passed_over, passed_over]
    assert batch.waits_at == {FALLBACK: 2}
    # The second item was not even sent to the first connection.
    assert batch.posts_at == (1, 2)


def test_a_short_refusal_is_waited_for_first(batch: FallbackBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "FALLBACK_AFTER_SECONDS", 3600.0)
    set_submission_timing(monkeypatch, retry_after=0.01)
    batch.meet(PRIMARY, "503")
    assert batch.begin(["a", "b"]) is None
    assert batch.posts_at == (1, 0)
    assert batch.deferred.trigger.submit_conn_id == PRIMARY
    batch.before_resume = lambda _: monkeypatch.setattr(flows, "FALLBACK_AFTER_SECONDS", 0.0)
    assert batch.run(["a", "b"])["counts"]["succeeded"] == 2
    assert batch.bills_at == ([], ["a", "b"])


def test_a_connection_is_used_again(batch: FallbackBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    set_submission_timing(monkeypatch, retry_after=0.0)
    fault = batch.primary.fault("refuse", status=503, code="SERVICE_UNAVAILABLE", times=None)
    batch.before_resume = lambda _: fault.remove() if batch.bills_at[1] else None
    result = batch.run(["a", "b", "c"], max_in_flight=1)
    assert [entry["seedance_conn_id"] for entry in result["succeeded"]] == [FALLBACK, PRIMARY, PRIMARY]


def test_a_task_without_a_trigger_goes_to_the_next_connection_at_once(batch: FallbackBatch) -> None:
    batch.meet(PRIMARY, "503")
    result = batch.run(["a", "b"], deferrable=False)
    assert result["counts"]["succeeded"] == 2
    assert batch.bills_at == ([], ["a", "b"])


@pytest.fixture
def split(batch: FallbackBatch) -> FallbackBatch:
    """A batch whose first item is at the first connection, and whose second is at the other."""
    batch.hold()
    batch.meet(PRIMARY, "403", "b")
    assert batch.begin(["a", "b"]) is None
    assert batch.waits_at == {PRIMARY: 1, FALLBACK: 1}
    return batch


@RECORDED
def test_a_later_try_attaches_items_at_their_connection(kept: str, split: FallbackBatch) -> None:
    for again in (split.ti.retry, split.ti.clear):
        again()
        assert split.begin() is None
        assert split.waits_at == {PRIMARY: 1, FALLBACK: 1}
    split.release()
    for deliver in (split.retry, split.clear):
        assert keys(deliver()["succeeded"]) == ["0", "1"]
    assert split.bills_at == (["a"], ["b"])


def test_a_deferral_without_an_event_reads_items_at_their_connection(kept: str, split: FallbackBatch) -> None:
    split.primary.finish(split.ids[0])
    split.fallback.finish(split.fallback.ledger.submissions[0].generation_id)
    split.op.timeout = 1e-6
    result = split.fail_deferral(TriggerFailureReason.TRIGGER_TIMEOUT)
    assert [entry["seedance_conn_id"] for entry in result["succeeded"]] == [PRIMARY, FALLBACK]
    assert split.bills_at == (["a"], ["b"])


@RECORDED
def test_a_failed_item_goes_elsewhere_if_its_service_refuses_it(kept: str, batch: FallbackBatch) -> None:
    batch.primary.fault("fail", prompt="a", message="no")
    with pytest.raises(errors.SeedanceBatchError):
        batch.run(["a"], on_item_failure="fail")
    batch.meet(PRIMARY, "402")
    assert batch.retry()["succeeded"][0]["seedance_conn_id"] == FALLBACK
    # The next try knows of the later one only.
    assert batch.retry()["counts"]["succeeded"] == 1
    assert batch.bills_at == (["a"], ["a"])


@pytest.mark.parametrize(
    ("kept", "at"),
    [*(("ledger", at) for at in range(9)), *(("task state", at) for at in (0, 3, 4, 7))],
    indirect=["kept"],
)
def test_a_worker_killed_at_any_write_pays_once(
    batch: FallbackBatch, kept: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.hold()
    batch.meet(PRIMARY, "403", "b")
    batch.prepare(["a", "b", "c"])
    store = type(batch.op._run(batch.context).records)
    write, writes = store.write, itertools.count()

    def kill(*arguments: Any) -> None:
        if next(writes) == at:
            raise Killed
        write(*arguments)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(store, "write", kill)
        batch.begin()
    for _ in range(2):
        batch.ti.retry()
        batch.begin()
        assert batch.most_bills <= 1
    assert "b" not in batch.bills_at[0]


def test_no_intent_no_post_at_the_next_connection(batch: FallbackBatch) -> None:
    batch.meet(PRIMARY, "402")
    away = Mock(side_effect=ConnectionError)
    batch.store.before = lambda what: away() if what == "set" and batch.posts_at[0] else None
    assert isinstance(batch.begin(["a"]), errors.SeedanceStateError)
    assert batch.posts_at == (1, 0)


def test_an_unanswered_look_up_never_leaves_the_connection(batch: FallbackBatch) -> None:
    batch.connect_to(PRIMARY, "ark")
    batch.hold()
    batch.primary.fault("drop_reply", prompt="a")
    listing = batch.primary.fault("refuse", on="list", status=503, times=None)
    batch.primary.fault("refuse", status=402, prompt="b", times=None)
    batch.begin(["a", "b"])
    assert batch.bills_at == (["a"], [])
    listing.remove()
    batch.ti.retry()
    assert batch.begin() is None
    assert batch.waits_at == {PRIMARY: 1, FALLBACK: 1}
    assert batch.bills_at == (["a"], ["b"])


def test_a_paid_connection_that_cannot_make_the_request_any_more_fails_the_item(batch: FallbackBatch) -> None:
    batch.hold()
    batch.meet(PRIMARY, "403", "b")
    batch.begin(["a", "b"], fps=24)
    batch.meet(PRIMARY, "unfit")
    batch.release()
    result = batch.retry()
    assert keys(result["succeeded"]) == ["1"]
    assert batch.ids[0] in result["failed"][0]["error"]
    assert batch.bills_at == (["a"], ["b"])


@pytest.mark.parametrize("moment", ["deferred", "submitting", "waiting"])
def test_a_killed_task_cancels_each_render_at_its_service(
    batch: FallbackBatch, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    batch.connect_to(PRIMARY, "ark")
    batch.connect_to(FALLBACK, "ark")
    batch.hold()
    batch.primary.fault("refuse", status=403, prompt="b", times=None)
    states = {"run": {"task": TaskInstanceState.FAILED}}
    if moment == "deferred":
        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **_: states)
        batch.begin(["a", "b"])
        batch.deferred.trigger.task_instance = batch.ti
        on_loop(killed(batch.deferred.trigger))
    elif moment == "submitting":
        batch.prepare(["a", "b"])
        batch.ti.state = "failed"
        batch.store.before = lambda _: batch.op.on_kill() if batch.fallback.ledger.submissions else None
        batch.defer()
    else:
        batch.prepare(["a", "b"], deferrable=False, timeout=1.0)
        batch.ti.state = "failed"

        def kill(_: Any) -> None:
            batch.op.cancel_abandoned()
            raise Killed

        monkeypatch.setattr(batch_run, "run_blocking", kill)
        with suppress(Killed):
            batch.op.execute(batch.context)
    for service in (batch.primary, batch.fallback):
        (submission,) = service.ledger.submissions
        assert service.generation(submission.generation_id).status == "cancelled"


def test_the_manifest_names_the_connection_of_each_item(batch: FallbackBatch, tmp_path: Path) -> None:
    batch.meet(PRIMARY, "403", "b")
    batch.meet(FALLBACK, "moderation", "b")
    batch.meet(PRIMARY, "403", "c")
    path = tmp_path / "manifest.jsonl"
    batch.run(["a", "b", "c"], manifest_path=str(path))
    assert [line["status"] for line in lines(path)] == ["succeeded", "failed", "succeeded"]
    assert [line["seedance_conn_id"] for line in lines(path)] == [PRIMARY, None, FALLBACK]


@RECORDED
def test_a_limit_holds_over_all_connections(batch: FallbackBatch, kept: str) -> None:
    batch.connect_to(PRIMARY, prices=[{"credits": 10}])
    batch.connect_to(FALLBACK, prices=[{"credits": 20}])
    batch.meet(PRIMARY, "403", "b")
    result = batch.run(["a", "b", "c", "d"], max_credits=45)
    assert result["not_submitted"] == ["3"]
    assert batch.bills_at == (["a", "c"], ["b"])
    batch.connect_to(FALLBACK, "ark")  # which publishes no price in credits
    assert isinstance(batch.begin(["e"], max_credits=45), errors.SeedanceConfigurationError)
    assert batch.bills_at == (["a", "c"], ["b"])


def test_a_used_up_budget_sends_the_rest_to_the_next_connection(batch: FallbackBatch, ledger: Path) -> None:
    one = {"prices": [{"credits": 10}], "budgets": [{"credits": 15, "per": "month"}]}
    batch.connect_to(PRIMARY, **one)
    batch.connect_to(FALLBACK, **one)
    result = batch.run(["a", "b", "c"])
    assert keys(result["succeeded"]) == ["0", "1"]
    assert result["not_submitted"] == ["2"]
    assert batch.bills_at == (["a"], ["b"])


def test_a_dry_run_has_the_price_of_the_first_connection_that_can_make_an_item(batch: FallbackBatch) -> None:
    batch.connect_to(PRIMARY, "seedanceapi-v1", prices=[{"credits": 10}])  # which takes no fps
    batch.connect_to(FALLBACK, prices=[{"credits": 20}])
    result = batch.run(["a", {"prompt": "b", "fps": 24}], dry_run=True)
    assert result["estimate"]["at_least"]["credits"] == 30
    assert batch.posts_at == (0, 0)


def test_an_item_that_only_one_connection_can_make_does_not_wait_for_the_other(batch: FallbackBatch) -> None:
    batch.meet(PRIMARY, "unfit")
    batch.meet(FALLBACK, "402")
    result = batch.run([{"prompt": "a", "fps": 24}, "b"])
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["1"], ["0"])
    assert batch.bills_at == (["b"], [])


def test_a_connection_that_does_not_exist_is_found_before_anything_is_sent(batch: FallbackBatch) -> None:
    batch.prepare(["a"], seedance_conn_id=[PRIMARY, "missing"])
    with pytest.raises(Exception, match="missing"):
        batch.op.execute(batch.context)
    assert batch.posts_at == (0, 0)
