"""The retry policy of tasks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import error_classes
from versions import RESCHEDULING, RETRY_POLICIES, RetryAction, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.policies.retry import RESCHEDULE_TIMEOUT, SeedanceRetryPolicy

pytestmark = needs(RETRY_POLICIES)

#: Policy that runs the task again at the time that an error names.
AGAIN = getattr(RetryAction, "RESCHEDULE", None) or getattr(RetryAction, "RETRY", None)
REFUSED = errors.SeedanceRateLimitError("429", retry_after=1800)
BROKEN = errors.SeedanceServerError("500")


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
    assert (decision.action, decision.retry_delay) == (AGAIN, timedelta(seconds=seconds))
    assert ("uses up a retry" in decision.reason) is not RESCHEDULING.there


@pytest.mark.parametrize(
    "error", [BROKEN, errors.SeedanceRateLimitError("429"), ValueError("x"), KeyboardInterrupt()]
)
def test_any_other_error_is_left_to_the_task(error: BaseException) -> None:
    assert decide(error).action is RetryAction.DEFAULT


def test_the_policy_is_restored_from_its_serialization() -> None:
    assert isinstance(SeedanceRetryPolicy.deserialize(SeedanceRetryPolicy().serialize()), SeedanceRetryPolicy)


@needs(RESCHEDULING)
@pytest.mark.parametrize(
    ("error", "action", "reason"),
    [
        (REFUSED, "RESCHEDULE", "SeedanceRetryPolicy: a request can succeed in 1800 s"),
        (BROKEN, "RETRY", "ExceptionRetryPolicy: broken (after SeedanceRetryPolicy"),
        (ValueError("x"), "DEFAULT", "no policy decided"),
    ],
)
def test_a_chain_asks_the_next_policy_without_a_time(error: Exception, action: str, reason: str) -> None:
    policies: Any = import_module("airflow.sdk.definitions.retry_policy")
    rule = policies.RetryRule(exception=errors.SeedanceServerError, reason="broken")
    chain = policies.ChainRetryPolicy([SeedanceRetryPolicy(), policies.ExceptionRetryPolicy(rules=[rule])])
    decision = chain.evaluate(error, 1, 3)
    assert decision.action is RetryAction[action]
    assert decision.reason.startswith(reason)


@needs(RESCHEDULING)
def test_a_chain_may_bound_the_rescheduling_before() -> None:
    policies: Any = import_module("airflow.sdk.definitions.retry_policy")
    rule = policies.RetryRule(exception=type(REFUSED), action=RetryAction.RESCHEDULE, max_reschedules=3)
    chain = policies.ChainRetryPolicy([policies.ExceptionRetryPolicy(rules=[rule]), SeedanceRetryPolicy()])
    decision = decide(REFUSED)
    assert (decision.max_reschedules, decision.reschedule_timeout) == (None, RESCHEDULE_TIMEOUT)
    assert chain.evaluate(REFUSED, 1, 3).max_reschedules == 3
    away = errors.SeedanceServerError("503", retry_after=60)
    assert chain.evaluate(away, 1, 3).reschedule_timeout == RESCHEDULE_TIMEOUT


@needs(RESCHEDULING)
@pytest.mark.parametrize(
    ("days_ago", "state"), [(None, "up_for_reschedule"), (6, "up_for_reschedule"), (8, "failed")]
)
def test_airflow_carries_out_a_rescheduling_without_a_retry(days_ago: int | None, state: str) -> None:
    """``retries=0``: only a task that uses none can run again."""
    runner: Any = import_module("airflow.sdk.execution_time.task_runner")
    first = None if days_ago is None else datetime.now(UTC) - timedelta(days=days_ago)
    ti = SimpleNamespace(
        task=SimpleNamespace(retry_policy=SeedanceRetryPolicy(), retry_delay=timedelta(minutes=5)),
        try_number=1,
        rendered_map_index=None,
        _failure_metrics_emitted=True,
        _ti_context_from_server=SimpleNamespace(
            max_tries=0, task_reschedule_count=int(first is not None), should_retry=False
        ),
        get_first_reschedule_date=lambda context: first,
    )
    message, ended = runner._handle_current_task_failed(ti, REFUSED, runner.log, {})
    assert ended.value == state
    if ended.value == "up_for_reschedule":
        assert message.reschedule_date - message.end_date == timedelta(seconds=1800)
