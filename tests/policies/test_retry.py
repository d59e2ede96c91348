"""The retry policy of tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from helpers import error_classes
from versions import RETRY_POLICIES, RetryAction, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy

pytestmark = needs(RETRY_POLICIES)


def decide(error: BaseException) -> Any:
    return SeedanceRetryPolicy().evaluate(error, 1, 3)


@pytest.mark.parametrize("cls", error_classes())
def test_an_error_that_a_retry_cannot_resolve_fails_the_task(cls: type[errors.SeedanceError]) -> None:
    decision = decide(cls("no", retry_after=60))
    assert (decision.action is RetryAction.FAIL) is not cls.retry_helps
    if not cls.retry_helps:
        assert cls.__name__ in decision.reason


@pytest.mark.parametrize("seconds", [0, 0.5, 60, 1800])
def test_the_retry_after_of_the_service_is_the_delay(seconds: float) -> None:
    decision = decide(errors.SeedanceRateLimitError("429", retry_after=seconds))
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "error",
    [
        errors.SeedanceServerError("500"),
        errors.SeedanceRateLimitError("429"),
        ValueError("x"),
        KeyboardInterrupt(),
    ],
)
def test_any_other_error_is_left_to_the_task(error: BaseException) -> None:
    assert decide(error).action is RetryAction.DEFAULT


def test_the_policy_is_restored_from_its_serialization() -> None:
    assert isinstance(SeedanceRetryPolicy.deserialize(SeedanceRetryPolicy().serialize()), SeedanceRetryPolicy)
