"""One class per meaning: what each carries, and which of them Airflow does not retry."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from helpers import error_classes

from airflow_provider_seedance import exceptions as errors

CLASSES = error_classes()

RETRIED = {
    errors.SeedanceError,
    errors.SeedanceRateLimitError,
    errors.SeedanceServerError,
    errors.SeedanceConnectionError,
    errors.SeedanceBatchError,
    errors.SeedanceGenerationFailedError,
    errors.SeedanceTimeoutError,
    errors.SeedanceMediaError,
    errors.SeedanceLedgerError,
    errors.SeedanceStateError,
}

DETAILS = {
    "http_status": 429,
    "vendor_code": "RATE_LIMITED",
    "method": "POST",
    "path": "/generate",
    "generation_id": "g1",
    "retry_after": 3.5,
}


BUDGET = {"limit": 50.0, "spent": 40.0, "reserved": 8.0, "renews_at": datetime(2026, 1, 2, tzinfo=UTC)}


def test_errors_that_a_retry_cannot_cure_fail_the_task() -> None:
    for cls in CLASSES:
        assert issubclass(cls, errors.SeedanceError)
        assert issubclass(cls, AirflowException)
        assert cls.retry_helps is (cls in RETRIED)
        assert issubclass(cls, AirflowFailException) is (cls not in RETRIED)


def test_scopes_say_what_an_error_rules_out() -> None:
    scopes = {cls: cls.scope for cls in CLASSES if cls.scope != "task"}
    assert scopes == {
        errors.SeedanceRequestError: "item",
        errors.SeedanceRequestChangedError: "item",
        errors.SeedanceMaxCreditsError: "item",
        errors.SeedanceNotFoundError: "item",
        errors.SeedanceModerationError: "item",
        errors.SeedanceUncertainSubmitError: "item",
        errors.SeedanceGenerationFailedError: "item",
        errors.SeedanceGenerationCancelledError: "item",
        errors.SeedanceOutputGoneError: "item",
        errors.SeedanceForbiddenError: "permission",
        errors.SeedanceAuthenticationError: "account",
        errors.SeedanceInsufficientCreditsError: "account",
        errors.SeedanceBudgetError: "account",
        errors.SeedanceRateLimitError: "service",
        errors.SeedanceServerError: "service",
        errors.SeedanceConnectionError: "service",
    }


def test_kinds_are_the_words_that_a_batch_reports() -> None:
    kinds = {cls: cls.kind for cls in CLASSES if cls.kind != "error"}
    assert kinds == {
        errors.SeedanceConfigurationError: "configuration",
        errors.SeedanceRequestError: "request",
        errors.SeedanceRequestChangedError: "changed",
        errors.SeedanceMaxCreditsError: "request",
        errors.SeedanceAuthenticationError: "authentication",
        errors.SeedanceInsufficientCreditsError: "insufficient_credits",
        errors.SeedanceBudgetError: "budget",
        errors.SeedanceForbiddenError: "forbidden",
        errors.SeedanceNotFoundError: "not_found",
        errors.SeedanceModerationError: "moderation",
        errors.SeedanceUncertainSubmitError: "uncertain",
        errors.SeedanceGenerationFailedError: "failed",
        errors.SeedanceGenerationCancelledError: "cancelled",
        errors.SeedanceTimeoutError: "timeout",
        errors.SeedanceOutputGoneError: "output_gone",
    }


def test_every_docstring_says_what_a_retry_or_the_bill_comes_to() -> None:
    for cls in {*CLASSES} - {errors.SeedanceError}:
        said = (cls.__doc__ or "").lower()
        assert any(word in said for word in ("retry", "again", "repeated", "no record")), cls


def test_everything_is_carried_and_survives_pickling_and_copying() -> None:
    shown = "generation g1, HTTP status 429, code RATE_LIMITED, call POST /generate"
    for cls in CLASSES:
        details = DETAILS | BUDGET if cls is errors.SeedanceBudgetError else DETAILS
        error = cls("It broke.", **details)
        for twin in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert (type(twin), twin.message, twin.details()) == (cls, "It broke.", details)
            assert str(twin) == f"It broke. ({shown})"


def test_unknown_details_are_left_out() -> None:
    error = errors.SeedanceServerError("It broke.")
    assert str(error) == "It broke."
    assert set(error.details().values()) == {None}
    assert str(errors.SeedanceError("m", method="GET")) == "m"


def test_narrow_meanings_are_caught_by_the_wide_ones() -> None:
    for narrow, wide in (
        (errors.SeedanceRequestChangedError, errors.SeedanceRequestError),
        (errors.SeedanceBatchFinalError, errors.SeedanceBatchError),
        (errors.SeedanceGenerationCancelledError, errors.SeedanceGenerationFailedError),
        (errors.SeedanceMediaHostError, errors.SeedanceMediaError),
        (errors.SeedanceMediaTooLargeError, errors.SeedanceMediaError),
        (errors.SeedanceOutputGoneError, errors.SeedanceMediaError),
        (errors.SeedanceDestinationExistsError, errors.SeedanceMediaError),
        (errors.SeedanceLedgerError, errors.SeedanceStateError),
        (errors.SeedanceRecordError, errors.SeedanceStateError),
        (errors.SeedanceUnrecordedError, errors.SeedanceStateError),
    ):
        assert issubclass(narrow, wide)
