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


@pytest.mark.parametrize("make_operator", MAKE)
@pytest.mark.parametrize("stored", [True, False])
def test_an_invalid_request_is_not_its_own_cause(
    services: SeedanceEmulator, connect: Connect, make_operator: Any, stored: bool
) -> None:
    connect("seedanceapi-v2")
    with pytest.raises(errors.SeedanceRequestError) as caught:
        make_operator(duration=-1).execute(make_context(Store() if stored else None))
    check_chain(caught.value)


@pytest.mark.parametrize("make_operator", MAKE)
def test_an_invalid_request_after_a_submission_has_a_cause(
    services: SeedanceEmulator, connect: Connect, make_operator: Any
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    store, ti = Store(), TaskInstance()
    deferral(lambda: make_operator().execute(make_context(store, ti)))
    ti.retry()
    with pytest.raises(
        errors.SeedanceRequestError, match="1 generation was submitted by this task"
    ) as caught:
        make_operator(duration=-1).execute(make_context(store, ti))
    check_chain(caught.value)
    assert isinstance(caught.value.__cause__, errors.SeedanceRequestError)
