"""One class per meaning: what each carries, and which of them Airflow does not retry."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from helpers import error_classes

from airflow_provider_seedance import exceptions as errors

CLASSES = error_classes()

#: Of each error, without its prefix and suffix: the wider error that also catches it, its scope, the word that a batch
#: reports, and whether a retry may help.
MEANINGS = {
    "": ("Airflow", "task", "error", True),
    "Configuration": ("", "task", "configuration", False),
    "Request": ("", "item", "request", False),
    "RequestChanged": ("Request", "item", "changed", False),
    "MaxCredits": ("Request", "item", "request", False),
    "Authentication": ("", "account", "authentication", False),
    "InsufficientCredits": ("", "account", "insufficient_credits", False),
    "Budget": ("", "account", "budget", False),
    "Forbidden": ("", "permission", "forbidden", False),
    "NotFound": ("", "item", "not_found", False),
    "RateLimit": ("", "service", "error", True),
    "Moderation": ("", "item", "moderation", False),
    "Server": ("", "service", "error", True),
    "Connection": ("", "service", "error", True),
    "UncertainSubmit": ("", "item", "uncertain", False),
    "GenerationFailed": ("", "item", "failed", True),
    "GenerationCancelled": ("GenerationFailed", "item", "cancelled", False),
    "Batch": ("", "task", "error", True),
    "BatchFinal": ("Batch", "task", "error", False),
    "Timeout": ("", "task", "timeout", True),
    "Media": ("", "task", "error", True),
    "MediaHost": ("Media", "task", "error", False),
    "MediaTooLarge": ("Media", "task", "error", False),
    "OutputGone": ("Media", "item", "output_gone", False),
    "MediaRejected": ("Media", "task", "error", False),
    "DestinationExists": ("Media", "task", "error", False),
    "State": ("", "task", "error", True),
    "Ledger": ("State", "task", "error", True),
    "Record": ("State", "task", "error", False),
    "Unrecorded": ("State", "task", "error", False),
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


def short(cls: type[BaseException]) -> str:
    return cls.__name__.removeprefix("Seedance").removesuffix("Error").removesuffix("Exception")


def test_every_error_has_its_meaning() -> None:
    found = {}
    for cls in CLASSES:
        wider = next(base for base in cls.__mro__[1:] if base in CLASSES or base is AirflowException)
        found[short(cls)] = (short(wider), cls.scope, cls.kind, cls.retry_helps)
        assert issubclass(cls, AirflowFailException) is not cls.retry_helps
    assert found == MEANINGS


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
