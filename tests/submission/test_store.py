"""Methods that all record stores share."""

from __future__ import annotations

import logging

import pytest
from ledger import record_samples as samples
from support import Store

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.costs.budgets import Budget
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, ReuseSearch, SubmissionDetails

DETAILS = SubmissionDetails(prompt="A heron")


def test_what_needs_a_ledger() -> None:
    accessor = Store()
    store, intent = TaskStateStore(accessor), samples.intent()
    budgets = (Budget(unit="credits", limit=1, per="day"),)
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        store.write_intent(GENERATION_KEY, intent, rec.replace(DETAILS, budgets=budgets))
    assert caught.value.message == (
        "Connection 'seedance_default' has budgets, which need a ledger: set [seedance] ledger. Nothing was sent."
    )
    assert accessor.texts == {}
    search = ReuseSearch(scope="dag", intents={})
    for details, scope in ((rec.replace(DETAILS, reuse=search), "dag"), (DETAILS, "task")):
        with pytest.raises(errors.SeedanceConfigurationError) as caught:
            store.reuse(GENERATION_KEY, details)
        assert caught.value.message == (
            f"reuse={scope!r} needs a ledger: set [seedance] ledger. Nothing was sent."
        )
    assert store.stored_copy(intent) is None
    assert store.durations("https://ark.example", ["k"]) == {}
    assert store.resolve_command(GENERATION_KEY) is None


def test_a_record_that_can_be_missing_is_written_if_possible(caplog: pytest.LogCaptureFixture) -> None:
    accessor = Store()
    store, intent = TaskStateStore(accessor), samples.intent()
    assert store.write_intent(GENERATION_KEY, intent, DETAILS) is intent
    assert accessor.value == intent.as_dict()
    accessor.break_down("set")
    away = "Airflow's task state store could not be written (ConnectionError: the API server is away (set)). "
    ended = samples.generation(1)
    store.try_write(GENERATION_KEY, intent)
    store.try_write_end(GENERATION_KEY, intent, ended)
    found = store.backfill_id(GENERATION_KEY, intent, "g-7")
    assert (found.generation_id, found.state) == ("g-7", rec.RecordState.SUBMITTED)
    assert caplog.messages == [
        f"{away}The next try will treat this submission as uncertain.",
        f"{away}The next try asks the service how the generation ended.",
        f"{away}The id of generation g-7 still cannot be recorded.",
    ]
    accessor.before = lambda what: None
    assert store.backfill_id(GENERATION_KEY, intent, "g-7") == found
    assert accessor.value == found.as_dict()
    store.try_write_end(GENERATION_KEY, samples.same_ended(1), ended)
    assert accessor.value == samples.same_ended(1).as_dict()


def test_the_last_failure_to_write_an_id_says_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    accessor = Store()
    accessor.break_down("set")
    with caplog.at_level(logging.ERROR):
        assert not TaskStateStore(accessor, sleep=lambda _: None).write_with_retries(
            "a.0", samples.same_ended(1)
        )
    text = (
        f"Generation {samples.same_ended(1).generation_id} was submitted and is billed, but its id could not be recorded: "
        "Airflow's task state store could not be written (ConnectionError: the API server is away (set)). "
    )
    *earlier, last = caplog.messages
    assert set(earlier) == {f"{text}Trying again."}
    assert last == f"{text}If this task fails now, a retry cannot find it."
