"""One render, two connections: every pair of outcomes, with the POSTs and the bills at both services."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk.bases.operator import TriggerFailureReason

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers.seedance import SeedanceQuotaTrigger
from operators.fallback_task import (
    API,
    FALLBACK,
    FINAL,
    LIMITED,
    PASSING,
    PRIMARY,
    UNCERTAIN,
    ConnectTo,
    FallbackTask,
    Killed,
    disconnect,
)
from operators.generation_task import CALLED, Connect, fire, make

OUTCOMES = ("accepted", *PASSING, *FINAL)


@pytest.fixture
def task(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    connect: Connect,
    connect_both: ConnectTo,
) -> FallbackTask:
    task = FallbackTask(services, start_emulator(), connect)
    connect_both(PRIMARY, task.primary, API)
    connect_both(FALLBACK, task.fallback, API)
    return task


@pytest.fixture
def meet(
    task: FallbackTask, connect_both: ConnectTo, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Give a connection an outcome."""

    def meet(conn_id: str, outcome: str) -> None:
        emulator = task.primary if conn_id == PRIMARY else task.fallback
        if outcome == "unreachable":
            disconnect(monkeypatch, conn_id, emulator, API)
        elif outcome == "unfit":
            connect_both(conn_id, emulator, "seedanceapi-v1")  # which takes no fps
        elif fault := {**PASSING, **FINAL}.get(outcome):
            emulator.fault(**fault)

    return meet


def enter(task: FallbackTask, **arguments: Any) -> errors.SeedanceError | None:
    """Enter the task until it defers; return its error, if it fails."""
    try:
        task.defer(fps=24, **arguments)
    except errors.SeedanceError as error:
        return error
    return None


# After another outcome of the first, the second receives nothing, although it would accept.
PAIRS = [*itertools.product(PASSING, OUTCOMES), *((first, "accepted") for first in ("accepted", *FINAL))]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_of_outcomes_pays_at_most_once(
    task: FallbackTask, meet: Callable[[str, str], None], first: str, second: str
) -> None:
    meet(PRIMARY, first)
    meet(FALLBACK, second)
    error = enter(task)
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
@pytest.mark.parametrize("again", ["retry", "clear"])
def test_an_uncertain_submission_stays_with_its_connection(
    task: FallbackTask, meet: Callable[[str, str], None], outcome: str, again: str
) -> None:
    meet(PRIMARY, outcome)
    assert isinstance(enter(task), errors.SeedanceUncertainSubmitError)
    # Even if the connection refuses what a person's clear submits anew.
    meet(PRIMARY, "402")
    getattr(task.ti, again)()
    assert enter(task) is not None
    assert task.posts_at[1] == 0


# ---------------------------------------------------------------------- records, wherever they are kept


def test_the_connection_that_was_paid_is_read(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    assert enter(task) is None
    assert task.ti.pushed["seedance_conn_id"] == FALLBACK
    generation_id = task.fallback.ledger.submissions[0].generation_id
    task.fallback.finish(generation_id)
    result = task.resume(fire(task.deferred.trigger))
    assert result["generation_id"] == generation_id
    assert task.bills_at == (0, 1)


@pytest.mark.parametrize(
    "reason", [TriggerFailureReason.TRIGGER_TIMEOUT, TriggerFailureReason.TRIGGER_FAILURE]
)
def test_a_broken_deferral_reads_the_connection_that_was_paid(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None], reason: TriggerFailureReason
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    task.fallback.finish(task.fallback.ledger.submissions[0].generation_id)
    assert task.fail_deferral(reason)["status"] == "succeeded"
    assert task.posts_at == (1, 1)


@pytest.mark.parametrize("again", ["retry", "clear"])
@pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)
def test_a_later_try_attaches_at_the_connection_that_was_paid(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None], again: str
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    getattr(task.ti, again)()
    assert enter(task) is None
    assert task.waits_at == FALLBACK
    assert task.posts_at == (1, 1)


@pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)
def test_a_failed_render_is_retried_where_it_failed(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    task.fallback.fail(task.fallback.ledger.submissions[0].generation_id, "no")
    task.ti.retry()
    assert enter(task) is None
    assert task.waits_at == FALLBACK
    assert task.posts_at == (1, 2)


@pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)
def test_a_failed_render_goes_elsewhere_if_its_service_refuses_the_retry(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None]
) -> None:
    enter(task)
    task.primary.fail(task.primary.ledger.submissions[0].generation_id, "no")
    meet(PRIMARY, "402")
    task.ti.retry()
    assert enter(task) is None
    assert task.waits_at == FALLBACK
    assert task.bills_at == (1, 1)
    # The next try knows of the later one only.
    task.ti.retry()
    assert enter(task) is None
    assert task.waits_at == FALLBACK
    assert task.bills_at == (1, 1)


@pytest.mark.parametrize("kept", ["task state", "ledger"], indirect=True)
def test_another_take_begins_with_the_first_connection(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    task.fallback.finish(task.fallback.ledger.submissions[0].generation_id)
    task.ti.clear()
    assert enter(task, on_clear="new") is None
    assert task.waits_at == PRIMARY
    assert task.bills_at == (1, 1)


def test_a_rejected_retry_keeps_the_generation_that_failed_on_record(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    enter(task)
    generation_id = task.primary.ledger.submissions[0].generation_id
    task.primary.fail(generation_id, "no")
    meet(PRIMARY, "402")
    meet(FALLBACK, "403")
    task.ti.retry()
    error = enter(task)
    assert isinstance(error, errors.SeedanceForbiddenError)
    assert "'primary'" in error.message
    assert "'fallback'" in error.message
    assert task.store.value["generation_id"] == generation_id
    assert task.store.value["conn_id"] == PRIMARY


# ---------------------------------------------------------------------- the record before each POST


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("kept", ["task state"], indirect=True)
def test_a_worker_killed_at_any_access_leaves_no_second_payment(
    task: FallbackTask, kept: str, meet: Callable[[str, str], None], at: int
) -> None:
    meet(PRIMARY, "402")
    left = [at]

    def kill(what: str) -> None:
        if what == "set":
            left[0] -= 1
            if left[0] == -1:
                raise Killed

    task.store.before = kill
    with suppress(Killed):
        enter(task)
    task.store.before = lambda what: None
    named = task.store.value and task.store.value["conn_id"]
    if task.posts_at[1]:
        assert named == FALLBACK
    elif task.posts_at[0]:
        assert named == PRIMARY or task.store.value["state"] == "intent"
    for _ in range(3):
        task.ti.retry()
        enter(task)
    assert sum(task.bills_at) <= 1


def test_the_record_says_why_a_connection_was_passed_over(
    task: FallbackTask, meet: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    assert task.store.value["conn_id"] == FALLBACK
    assert task.store.value["passed_over"] == {PRIMARY: "SeedanceInsufficientCreditsError"}
    (line,) = [line for line in caplog.messages if "took nothing" in line]
    assert line.startswith(f"Connection {PRIMARY!r} took nothing, and nothing is billed there: ")
    assert line.endswith(f" Trying connection {FALLBACK!r}.")


def test_a_rejection_that_cannot_be_recorded_does_not_keep_the_next_intent_from_being_written(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    writes = []

    def fail_second(what: str) -> None:
        if what == "set":
            writes.append(what)
            if len(writes) == 2:
                raise ConnectionError

    task.store.before = fail_second
    assert enter(task) is None
    assert task.bills_at == (0, 1)
    assert task.store.value["conn_id"] == FALLBACK


def test_no_intent_no_post_at_the_next_connection(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    writes = []

    def fail_later(what: str) -> None:
        if what == "set":
            writes.append(what)
            if len(writes) >= 2:
                raise ConnectionError

    task.store.before = fail_later
    assert isinstance(enter(task), errors.SeedanceStateError)
    assert task.posts_at == (1, 0)


# ---------------------------------------------------------------------- policies


def test_resubmitting_never_leaves_the_connection(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "lost reply")
    meet(PRIMARY, "402")
    assert isinstance(enter(task, on_uncertain_submit="resubmit"), errors.SeedanceInsufficientCreditsError)
    assert task.posts_at == (2, 0)
    task.ti.retry()
    enter(task, on_uncertain_submit="resubmit")
    assert task.posts_at[1] == 0


def test_an_unanswered_look_up_never_leaves_the_connection(
    task: FallbackTask, connect_both: ConnectTo
) -> None:
    connect_both(PRIMARY, task.primary, "ark")
    task.primary.fault("drop_reply")
    listing = task.primary.fault("refuse", on="list", status=401, times=None)
    with pytest.raises(errors.SeedanceError):
        task.defer()
    task.ti.retry()
    with pytest.raises(errors.SeedanceError):
        task.defer()
    assert task.posts_at == (1, 0)
    listing.remove()
    task.ti.retry()
    task.defer()
    assert task.waits_at == PRIMARY
    assert task.bills_at == (1, 0)


def test_a_request_that_no_connection_takes_is_one_error(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "unfit")
    meet(FALLBACK, "unfit")
    error = enter(task)
    assert isinstance(error, errors.SeedanceRequestError)
    assert error.message.count("fps") >= 2
    assert task.posts_at == (0, 0)


def test_a_changed_request_that_the_paid_connection_cannot_make_goes_nowhere(
    task: FallbackTask, connect_both: ConnectTo
) -> None:
    connect_both(PRIMARY, task.primary, "seedanceapi-v1")
    task.defer()
    task.ti.retry()
    error = enter(task)  # with an argument that the first service does not have
    assert isinstance(error, errors.SeedanceRequestError)
    assert task.primary.ledger.submissions[0].generation_id in error.message
    assert task.posts_at == (1, 0)


@pytest.mark.parametrize("value", [[], ["a", "a"], ["a", ""], ["a", None]])
def test_a_list_that_makes_no_sense_is_refused_when_the_dag_is_parsed(value: Any) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="seedance_conn_id"):
        make(seedance_conn_id=value)


def test_a_fallback_that_does_not_exist_is_found_before_anything_is_sent(task: FallbackTask) -> None:
    with pytest.raises(AirflowNotFoundException):
        task.defer(seedance_conn_id=[PRIMARY, "missing"])
    assert task.posts_at == (0, 0)


def test_a_connection_that_left_the_list_is_still_read(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    enter(task)
    task.fallback.finish(task.fallback.ledger.submissions[0].generation_id)
    task.op = make(seedance_conn_id=[PRIMARY])
    assert task.resume()["status"] == "succeeded"


def test_a_synchronous_task_waits_at_the_connection_that_was_paid(
    task: FallbackTask, meet: Callable[[str, str], None]
) -> None:
    task.fallback.release()
    meet(PRIMARY, "503")
    assert task.run(deferrable=False, poll_interval=0.01)["status"] == "succeeded"
    assert task.bills_at == (0, 1)


def test_a_callback_address_names_the_connection_that_is_paid(
    task: FallbackTask, connect_both: ConnectTo, meet: Callable[[str, str], None]
) -> None:
    connect_both(PRIMARY, task.primary, API, **CALLED)
    connect_both(FALLBACK, task.fallback, API, **CALLED)
    meet(PRIMARY, "402")
    assert enter(task, use_callback=True) is None
    url = str(task.fallback.ledger.submissions[0].callback_url)
    claims = tokens.decode_unverified(url.rpartition("/")[2])
    assert claims is not None
    assert claims.conn_id == FALLBACK
    assert claims.nonce == task.store.value["callback_nonce"]


def test_each_mapped_task_chooses_for_itself(
    task: FallbackTask, connect: Connect, meet: Callable[[str, str], None]
) -> None:
    meet(PRIMARY, "402")
    other = FallbackTask(task.primary, task.fallback, connect)
    task.ti.map_index, other.ti.map_index = 0, 1
    enter(task)
    enter(other)
    assert (task.waits_at, other.waits_at) == (FALLBACK, PRIMARY)
    assert task.bills_at == (1, 1)
