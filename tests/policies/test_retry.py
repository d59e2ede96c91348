from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from helpers import error_classes
from versions import RETRY_POLICIES, RetryAction, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy

pytestmark = needs(RETRY_POLICIES)

CLASSES = error_classes()


def decide(error: BaseException) -> Any:
    return SeedanceRetryPolicy().evaluate(error, 1, 3)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_no_retry_can_cure_is_not_retried(cls: type[errors.SeedanceError]) -> None:
    decision = decide(cls("no", retry_after=60))
    assert (decision.action is RetryAction.FAIL) is not cls.retry_helps
    if not cls.retry_helps:
        assert cls.__name__ in decision.reason


@pytest.mark.parametrize("seconds", [0, 0.5, 60, 1800])
def test_the_services_time_is_the_delay(seconds: float) -> None:
    decision = decide(errors.SeedanceRateLimitError("429", retry_after=seconds))
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "error",
    [
        errors.SeedanceServerError("500"),
        ValueError("x"),
        KeyboardInterrupt(),
        errors.SeedanceRateLimitError("429"),
    ],
)
def test_anything_else_is_the_tasks_own_business(error: BaseException) -> None:
    assert decide(error).action is RetryAction.DEFAULT


def test_it_survives_serialization() -> None:
    assert isinstance(SeedanceRetryPolicy.deserialize(SeedanceRetryPolicy().serialize()), SeedanceRetryPolicy)
