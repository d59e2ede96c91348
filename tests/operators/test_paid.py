"""Errors of a task about its requests and its payments: their chains have no cycle."""

from __future__ import annotations

from typing import Any

import pytest
from support import Store, TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from operators import batch_runner
from operators.generation_task import Connect, make


def check_chain(error: BaseException, *above: BaseException) -> None:
    """Check that no error is among its own causes and contexts."""
    assert not any(error is one for one in above), "a chain of errors with a cycle"
    for other in (error.__cause__, error.__context__):
        if other is not None:
            check_chain(other, *above, error)


MAKE: list[Any] = [
    pytest.param(make, id="single"),
    pytest.param(lambda **arguments: batch_runner.make(["a"], **arguments), id="batch"),
]


@pytest.fixture(autouse=True)
def held(services: SeedanceEmulator, connect: Connect) -> SeedanceEmulator:
    connect("seedanceapi-v2")
    services.hold()
    return services


@pytest.mark.parametrize("make_operator", MAKE)
@pytest.mark.parametrize("stored", [True, False])
def test_an_invalid_request_is_not_its_own_cause(make_operator: Any, stored: bool) -> None:
    with pytest.raises(errors.SeedanceRequestError) as caught:
        make_operator(duration=-1).execute(make_context(Store() if stored else None))
    check_chain(caught.value)


@pytest.mark.parametrize("make_operator", MAKE)
def test_an_invalid_request_after_a_submission_has_a_cause(
    held: SeedanceEmulator, make_operator: Any
) -> None:
    store, ti = Store(), TaskInstance()
    deferral(lambda: make_operator().execute(make_context(store, ti)))
    ti.retry()
    submitted = "1 generation was submitted by this task"
    with pytest.raises(errors.SeedanceRequestError, match=submitted) as caught:
        make_operator(duration=-1).execute(make_context(store, ti))
    assert held.ledger.submissions[0].generation_id in caught.value.message
    assert "Nothing was sent" not in caught.value.message
    check_chain(caught.value)
    assert isinstance(caught.value.__cause__, errors.SeedanceRequestError)


@pytest.mark.parametrize("make_operator", MAKE)
@pytest.mark.parametrize("stored", [True, False])
def test_a_connection_that_breaks_after_the_submission_names_what_was_paid_for(
    held: SeedanceEmulator, connect: Connect, make_operator: Any, stored: bool
) -> None:
    """The certificates are read when a client is made, and the error about them says that nothing was sent."""
    context = make_context(Store() if stored else None)
    op = make_operator(timeout=1e-6)
    deferred = deferral(lambda: op.execute(context))
    connect("seedanceapi-v2", verify="/nowhere/ca.pem")
    kwargs = {**deferred.kwargs, "event": None}
    with pytest.raises(errors.SeedanceError) as caught:
        make_operator(timeout=1e-6).resume_execution(deferred.method_name, kwargs, context)
    assert held.ledger.submissions[0].generation_id in str(caught.value)
    assert "Nothing was sent" not in str(caught.value)
    check_chain(caught.value)


def test_a_final_failure_of_a_batch_names_all_that_is_paid(held: SeedanceEmulator, connect: Connect) -> None:
    held.release()
    held.fault("refuse", prompt="bad")
    one = batch_runner.Batch(held, connect)
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        one.run(["good", "bad"])
    assert one.paid_ids_in(str(caught.value))
