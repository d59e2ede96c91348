"""Errors and decisions at the end of a wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling.outcomes import ResumeStep, after_resume, raise_unless_succeeded

DEADLINE = 1000.0
RUNNING = Generation(generation_id="g", api="runbase", media="video", status=GenerationStatus.RUNNING)
NO_OUTPUT = replace(RUNNING, status=GenerationStatus.SUCCEEDED)
FAILED = replace(RUNNING, status=GenerationStatus.FAILED)
SUCCEEDED = replace(NO_OUTPUT, urls=("https://media.example/v.mp4",))
MISSING = errors.SeedanceNotFoundError("a new id", http_status=404)


def rate_limited(retry_after: float | None = None) -> errors.SeedanceRateLimitError:
    return errors.SeedanceRateLimitError("too many requests", retry_after=retry_after)


@pytest.mark.parametrize(
    ("reading", "now", "step"),
    [
        (FAILED, 2000.0, ResumeStep("ended", FAILED)),
        (NO_OUTPUT, 999.0, ResumeStep("wait", NO_OUTPUT, until=DEADLINE)),
        (NO_OUTPUT, 1000.0, ResumeStep("ended", NO_OUTPUT)),
        (RUNNING, 999.0, ResumeStep("wait", RUNNING, until=DEADLINE)),
        (RUNNING, 1000.0, ResumeStep("deadline", RUNNING)),
        (errors.SeedanceServerError("down"), 999.0, ResumeStep("wait", until=DEADLINE)),
        (errors.SeedanceServerError("down"), 1000.0, ResumeStep("deadline")),
        (errors.SeedanceAuthenticationError("wrong key"), 999.0, ResumeStep("wait", until=DEADLINE)),
        (errors.SeedanceNotFoundError("a synchronous reply"), 999.0, ResumeStep("unknown")),
        (MISSING, 999.0, ResumeStep("wait", until=DEADLINE)),
        (MISSING, 1000.0, ResumeStep("deadline")),
        (rate_limited(5.0), 900.0, ResumeStep("wait", until=DEADLINE, rate_limited=True)),
        (rate_limited(500.0), 900.0, ResumeStep("wait", until=1400.0, rate_limited=True)),
        (rate_limited(), 1049.0, ResumeStep("wait", until=1109.0, rate_limited=True)),
        (rate_limited(5.0), 1050.0, ResumeStep("deadline")),
    ],
)
def test_after_resume(reading: Any, now: float, step: ResumeStep) -> None:
    assert after_resume(reading, deadline=DEADLINE, now=now, max_quota_wait=50.0) == step


def test_not_found_ends_a_wait_that_has_found_nothing_repeatedly() -> None:
    step = after_resume(MISSING, deadline=DEADLINE, now=999.0, repeatedly_unknown=True)
    assert step == ResumeStep("unknown")


def test_rate_limit_extends_a_deferred_wait_by_a_day() -> None:
    day = 86400.0
    step = after_resume(rate_limited(5.0), deadline=DEADLINE, now=DEADLINE + day - 1)
    assert step == ResumeStep("wait", until=DEADLINE + day + 4, rate_limited=True)
    assert after_resume(rate_limited(5.0), deadline=DEADLINE, now=DEADLINE + day).kind == "deadline"


@pytest.mark.parametrize(
    "code", ["InvalidParameter", "InvalidParameter.TaskTypeConstraint", "InvalidParameter.TaskTypeMismatch"]
)
def test_a_failure_by_the_request_itself_is_not_retried(code: str) -> None:
    with pytest.raises(errors.SeedanceRequestError, match="why") as caught:
        raise_unless_succeeded(replace(FAILED, error_code=code, error_message="why"))
    assert (caught.value.vendor_code, caught.value.retry_helps) == (code, False)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (FAILED, errors.SeedanceGenerationFailedError),
        (replace(FAILED, error_message="the model is down."), errors.SeedanceGenerationFailedError),
        (replace(FAILED, error_code="InternalServiceError"), errors.SeedanceGenerationFailedError),
        (replace(FAILED, error_code="InvalidParameters"), errors.SeedanceGenerationFailedError),
        (replace(FAILED, error_code="InputTextSensitiveContentDetected"), errors.SeedanceModerationError),
        (replace(FAILED, error_message="content_policy violation"), errors.SeedanceModerationError),
        (replace(RUNNING, status=GenerationStatus.EXPIRED), errors.SeedanceGenerationFailedError),
        (replace(RUNNING, status=GenerationStatus.CANCELLED), errors.SeedanceGenerationCancelledError),
        (NO_OUTPUT, errors.SeedanceOutputGoneError),
    ],
)
def test_each_end_but_success_raises_its_error(end: Generation, error: type[errors.SeedanceError]) -> None:
    assert raise_unless_succeeded(SUCCEEDED) is SUCCEEDED
    with pytest.raises(error, match="eneration g") as caught:
        raise_unless_succeeded(end)
    assert type(caught.value) is error
    assert caught.value.generation_id == "g"
    assert ".." not in caught.value.message
