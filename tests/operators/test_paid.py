"""Errors of tasks about their requests and payments, and what makes a retry or a clear pay again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from support import make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import task_state
from operators.batch_runner import Batch
from operators.generation_task import Task, Tries


def check_chain(error: BaseException, *above: BaseException) -> None:
    """Check that no error is among its own causes and contexts."""
    assert not any(error is one for one in above), "a chain of errors with a cycle"
    for other in (error.__cause__, error.__context__):
        if other is not None:
            check_chain(other, *above, error)


STORED = pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])


@STORED
def test_an_invalid_request_is_not_its_own_cause(either: Tries, stored: bool) -> None:
    either.stored = stored
    with pytest.raises(errors.SeedanceRequestError) as caught:
        either.defer(duration=-1)
    check_chain(caught.value)


def test_an_invalid_request_after_a_submission_has_a_cause(either: Tries) -> None:
    either.services.hold()
    either.defer()
    either.ti.retry()
    submitted = "1 generation was submitted by this task"
    with pytest.raises(errors.SeedanceRequestError, match=submitted) as caught:
        either.defer(duration=-1)
    assert either.ids[0] in caught.value.message
    assert "Nothing was sent" not in caught.value.message
    check_chain(caught.value)
    assert isinstance(caught.value.__cause__, errors.SeedanceRequestError)


@STORED
def test_a_connection_that_breaks_after_the_submission(either: Tries, api: str, stored: bool) -> None:
    """The certificates are read when a client is made, and the error about them says that nothing was sent."""
    either.services.hold()
    either.stored = stored
    either.defer(timeout=1e-6)
    either.connect(api, verify="/nowhere/ca.pem")
    with pytest.raises(errors.SeedanceError) as caught:
        either.resume()
    assert either.ids[0] in str(caught.value)
    assert "Nothing was sent" not in str(caught.value)
    check_chain(caught.value)


def test_a_final_failure_of_a_batch_names_all_that_is_paid(batch: Batch) -> None:
    batch.services.fault("refuse", prompt="bad")
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        batch.run(["good", "bad"])
    assert batch.paid_ids_in(str(caught.value))


# ---------------------------------------------------------------------- below Airflow 3.3


def start(tries: Tries) -> Any:
    """Take the store of a task away; return what the API server says of its entries, as Airflow keeps it."""
    tries.without_store()
    server = SimpleNamespace(next_method=None, should_retry=True)
    tries.ti._ti_context_from_server = server  # type: ignore[attr-defined]
    return server


@pytest.mark.parametrize("on_uncertain", ["fail", "resubmit"])
def test_an_unpushed_result_is_not_paid_for_again(either: Tries, on_uncertain: str) -> None:
    server = start(either)
    either.services.release()
    either.prepare(on_uncertain_submit=on_uncertain, deferrable=False, poll_interval=0.01)
    either.enter()
    assert server.should_retry is (on_uncertain == "resubmit")


def test_an_estimate_that_airflow_cannot_push_is_made_again(batch: Batch) -> None:
    server = start(batch)
    batch.run(["a"], dry_run=True)
    assert server.should_retry


def render(tries: Tries, **values: Any) -> None:
    """Render the templates of a new operator."""
    template = "{{ prompt }}"
    tries.prepare(**({"prompt": template} if isinstance(tries, Task) else {"requests": [template]}))
    context: Any = {**make_context(None, tries.ti), **values}
    tries.op.render_template_fields(context, tries.op.get_template_env())


@pytest.mark.parametrize("state", ["not started", "refused", "submitted"])
def test_a_template_that_fails_is_final_after_a_submission(either: Tries, state: str) -> None:
    server = start(either)
    either.services.hold()
    if state == "refused":
        either.services.fault("rate_limit", retry_after=1800)
    render(either, prompt="a")
    if state != "not started":
        server.next_method = either.defer().method_name
    value = MagicMock(__str__=Mock(side_effect=ConnectionError("the secrets backend is away")))
    expected = errors.SeedanceUnrecordedError if state == "submitted" else ConnectionError
    with pytest.raises(expected, match="secrets backend is away") as caught:
        render(either, prompt=value)
    assert all(one in str(caught.value) for one in either.ids)
    assert len(either.ids) == (state == "submitted")


# ---------------------------------------------------------------------- records that a clear discards

Warned = Callable[[], tuple[int, int]]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Warned:
    """Count the warnings of what a clear discards, and of what it has discarded, since the last count."""
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)
    caplog.set_level(logging.WARNING)

    def count() -> tuple[int, int]:
        discards, discarded = (
            sum(words in line for line in caplog.messages) for words in ("Keep task state", "holds no record")
        )
        caplog.clear()
        return discards, discarded

    return count


def test_each_try_warns_once_and_a_discarded_record_is_submitted_again(either: Tries, warned: Warned) -> None:
    """From Airflow 3.4 on, a clear discards the task state unless the user keeps it."""
    either.services.release()
    either.ti.max_tries = 0
    either.prepare(poll_interval=0.01)
    either.enter()
    assert either.entries > 1
    assert warned() == (1, 0)
    either.ti.clear(retries=0)  # and keeps the task state
    either.enter()
    assert warned() == (1, 0)
    assert len(either.ids) == 1
    either.store.texts.clear()
    either.ti.clear(retries=0)
    either.enter()
    assert warned() == (1, 1)
    assert len(either.ids) == 2
