"""One render, two connections: every pair of outcomes, with the POSTs and the bills at both services."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.bases.operator import TriggerFailureReason

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceQuotaTrigger
from operators.fallback_task import FALLBACK, FINAL, LIMITED, PASSING, PRIMARY, UNCERTAIN, FallbackTask
from operators.generation_task import CALLED, Connect, Killed, fire, make


@pytest.fixture
def task(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> FallbackTask:
    return FallbackTask(services, start_emulator(), connect).connected(monkeypatch)


#: After an outcome that is final the second connection receives nothing, although it would accept.
PAIRS = [
    *itertools.product(PASSING, ("accepted", *PASSING, *FINAL)),
    *((first, "accepted") for first in ("accepted", *FINAL)),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_of_outcomes_pays_at_most_once(task: FallbackTask, first: str, second: str) -> None:
    task.meet(PRIMARY, first)
    task.meet(FALLBACK, second)
    error = task.begin()
    passes = first in PASSING
    assert (task.posts_at[1] > 0) is (passes and second not in ("unreachable", "unfit"))
    assert sum(task.bills_at) <= 1
    decisive = second if passes else first
    if decisive == "accepted":
        assert error is None
        assert task.waits_at == (FALLBACK if passes else PRIMARY)
        assert task.bills_at == ((0, 1) if passes else (1, 0))
    elif decisive in UNCERTAIN:
        assert isinstance(error, errors.SeedanceUncertainSubmitError)
    elif decisive in PASSING and LIMITED & {first, second}:
        assert isinstance(task.deferred.trigger, SeedanceQuotaTrigger)
    else:
        assert error is not None
        assert task.bills_at == (0, 0)


@pytest.mark.parametrize("outcome", UNCERTAIN)
def test_an_uncertain_submission_stays_with_its_connection(task: FallbackTask, outcome: str) -> None:
    task.meet(PRIMARY, outcome)
    assert isinstance(task.begin(), errors.SeedanceUncertainSubmitError)
    # Even if the connection refuses what a person's clear submits anew.
    task.meet(PRIMARY, "402")
    for again in (task.ti.retry, task.ti.clear):
        again()
        assert task.begin() is not None
        assert task.posts_at[1] == 0


@pytest.fixture
def passed_on(kept: str, task: FallbackTask) -> FallbackTask:
    """Task that waits at the second connection, because the first one refused."""
    task.meet(PRIMARY, "402")
    assert task.begin() is None
    return task


RECORDED = pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)


def test_the_paid_connection_is_read(passed_on: FallbackTask) -> None:
    assert passed_on.ti.pushed["seedance_conn_id"] == FALLBACK
    passed_on.fallback.finish(passed_on.fallback_id)
    assert passed_on.resume(fire(passed_on.deferred.trigger))["generation_id"] == passed_on.fallback_id
    assert passed_on.bills_at == (0, 1)


@pytest.mark.parametrize("reason", list(TriggerFailureReason))
def test_a_broken_deferral_reads_the_paid_connection(passed_on: FallbackTask, reason: str) -> None:
    passed_on.fallback.finish(passed_on.fallback_id)
    assert passed_on.fail_deferral(reason)["status"] == "succeeded"
    assert passed_on.posts_at == (1, 1)


@RECORDED
def test_a_later_try_attaches_at_the_paid_connection_and_retries_there(passed_on: FallbackTask) -> None:
    for again in (passed_on.ti.retry, passed_on.ti.clear):
        again()
        assert passed_on.begin() is None
        assert passed_on.waits_at == FALLBACK
        assert passed_on.posts_at == (1, 1)
    passed_on.fallback.fail(passed_on.fallback_id, "no")
    passed_on.ti.retry()
    assert passed_on.begin() is None
    assert passed_on.waits_at == FALLBACK
    assert passed_on.posts_at == (1, 2)


@RECORDED
def test_a_failed_render_goes_elsewhere_if_its_service_refuses_it(task: FallbackTask, kept: str) -> None:
    task.begin()
    task.primary.fail(task.ids[0], "no")
    task.meet(PRIMARY, "402")
    for _ in range(2):  # the last try knows of the later submission only
        task.ti.retry()
        assert task.begin() is None
        assert task.waits_at == FALLBACK
        assert task.bills_at == (1, 1)


@RECORDED
def test_another_take_begins_with_the_first_connection(passed_on: FallbackTask) -> None:
    passed_on.fallback.finish(passed_on.fallback_id)
    passed_on.ti.clear()
    assert passed_on.begin(on_clear="new") is None
    assert passed_on.waits_at == PRIMARY
    assert passed_on.bills_at == (1, 1)


def test_a_rejected_retry_keeps_the_generation_that_failed_on_record(task: FallbackTask) -> None:
    task.begin()
    task.primary.fail(task.ids[0], "no")
    task.meet(PRIMARY, "402")
    task.meet(FALLBACK, "403")
    task.ti.retry()
    error = task.begin()
    assert isinstance(error, errors.SeedanceForbiddenError)
    assert "'primary'" in error.message
    assert "'fallback'" in error.message
    assert task.store.value["generation_id"] == task.ids[0]
    assert task.store.value["conn_id"] == PRIMARY


def fail_writes(task: FallbackTask, *which: int, error: type[BaseException] = ConnectionError) -> None:
    writes = itertools.count(1)

    def fail(what: str) -> None:
        if what == "set" and next(writes) in which:
            raise error

    task.store.before = fail


@pytest.mark.parametrize("at", range(5))
def test_a_worker_killed_at_any_write_pays_once(task: FallbackTask, at: int) -> None:
    task.meet(PRIMARY, "402")
    fail_writes(task, at + 1, error=Killed)
    with suppress(Killed):
        task.begin()
    task.restore()
    named = task.store.value and task.store.value["conn_id"]
    if task.posts_at[1]:
        assert named == FALLBACK
    elif task.posts_at[0]:
        assert named == PRIMARY or task.store.value["state"] == "intent"
    for _ in range(3):
        task.ti.retry()
        task.begin()
    assert sum(task.bills_at) <= 1


def test_the_record_says_who_refused_and_why(task: FallbackTask, caplog: pytest.LogCaptureFixture) -> None:
    task.meet(PRIMARY, "402")
    task.begin()
    assert task.store.value["conn_id"] == FALLBACK
    assert task.store.value["passed_over"] == {PRIMARY: "SeedanceInsufficientCreditsError"}
    (line,) = [line for line in caplog.messages if "took nothing" in line]
    assert line.startswith(f"Connection {PRIMARY!r} took nothing, and nothing is billed there: ")
    assert line.endswith(f" Trying connection {FALLBACK!r}.")


def test_a_rejection_that_cannot_be_recorded_does_not_prevent_the_next_intent(task: FallbackTask) -> None:
    task.meet(PRIMARY, "402")
    fail_writes(task, 2)
    assert task.begin() is None
    assert task.bills_at == (0, 1)
    assert task.store.value["conn_id"] == FALLBACK


def test_no_intent_no_post_at_the_next_connection(task: FallbackTask) -> None:
    task.meet(PRIMARY, "402")
    fail_writes(task, *range(2, 99))
    assert isinstance(task.begin(), errors.SeedanceStateError)
    assert task.posts_at == (1, 0)


def test_resubmitting_never_leaves_the_connection(task: FallbackTask) -> None:
    task.meet(PRIMARY, "lost reply")
    task.meet(PRIMARY, "402")
    assert isinstance(task.begin(on_uncertain_submit="resubmit"), errors.SeedanceInsufficientCreditsError)
    assert task.posts_at == (2, 0)
    task.ti.retry()
    task.begin(on_uncertain_submit="resubmit")
    assert task.posts_at[1] == 0


def test_an_unanswered_look_up_never_leaves_the_connection(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, "ark")
    task.primary.fault("drop_reply")
    listing = task.primary.fault("refuse", on="list", status=401, times=None)
    for _ in range(2):
        with pytest.raises(errors.SeedanceError):
            task.defer()
        task.ti.retry()
    assert task.posts_at == (1, 0)
    listing.remove()
    task.defer()
    assert task.waits_at == PRIMARY
    assert task.bills_at == (1, 0)


def test_a_request_that_no_connection_takes_is_one_error(task: FallbackTask) -> None:
    task.meet(PRIMARY, "unfit")
    task.meet(FALLBACK, "unfit")
    error = task.begin()
    assert isinstance(error, errors.SeedanceRequestError)
    assert error.message.count("fps") >= 2
    assert task.posts_at == (0, 0)


def test_a_changed_request_that_the_paid_connection_cannot_make_goes_nowhere(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, "seedanceapi-v1")
    task.defer()
    task.ti.retry()
    error = task.begin()  # with an argument that the first service does not have
    assert isinstance(error, errors.SeedanceRequestError)
    assert task.ids[0] in error.message
    assert task.posts_at == (1, 0)


def test_a_fallback_that_does_not_exist_is_found_before_anything_is_sent(task: FallbackTask) -> None:
    with pytest.raises(AirflowNotFoundException):
        task.defer(seedance_conn_id=[PRIMARY, "missing"])
    assert task.posts_at == (0, 0)


def test_a_connection_that_left_the_list_is_still_read(task: FallbackTask) -> None:
    task.meet(PRIMARY, "402")
    task.begin()
    task.fallback.finish(task.fallback_id)
    task.op = make(seedance_conn_id=[PRIMARY])
    assert task.resume()["status"] == "succeeded"


def test_a_synchronous_task_waits_at_the_connection_that_was_paid(task: FallbackTask) -> None:
    task.fallback.release()
    task.meet(PRIMARY, "503")
    assert task.run(deferrable=False, poll_interval=0.01)["status"] == "succeeded"
    assert task.bills_at == (0, 1)


def test_a_callback_address_names_the_connection_that_is_paid(task: FallbackTask) -> None:
    task.connect_to(PRIMARY, **CALLED)
    task.connect_to(FALLBACK, **CALLED)
    task.meet(PRIMARY, "402")
    assert task.begin(use_callback=True) is None
    url = str(task.fallback.ledger.submissions[0].callback_url)
    claims = tokens.decode_unverified(url.rpartition("/")[2])
    assert claims is not None
    assert claims.conn_id == FALLBACK
    assert claims.nonce == task.store.value["callback_nonce"]
