"""Checks before anything is sent, and warnings of records that a clear may discard (Airflow 3.4)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers import image, prepare, settings, video
from ledger import record_samples as samples
from support import Store, TaskInstance

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.ledger.task_state import TaskStateStore
from airflow_provider_seedance.submission.preflight import (
    CLEAR_DISCARDS_RECORD,
    check_callback,
    check_price_known,
    no_price_error,
    warn_of_discarded_records,
)

DISCARDED = (
    "The task was cleared, and its task state holds no record. An earlier try may have submitted a generation, whose record "
    "was discarded; it goes on and is billed. This try submits anew."
)


@pytest.fixture(autouse=True)
def airflow_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", True)


def warnings(caplog: pytest.LogCaptureFixture, accessor: Any, ti: Any, retries: int | None = 2) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        warn_of_discarded_records(TaskStateStore(accessor), ti, retries)
    return [line.message for line in caplog.records if line.levelno == logging.WARNING]


def test_every_try_says_what_a_clear_discards_and_a_cleared_one_what_may_be_billed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ti = TaskInstance()
    for go_on, discarded in (
        (ti.retry, []),
        (ti.clear, []),
        (ti.retry, [DISCARDED]),
        (ti.retry, [DISCARDED]),
    ):
        assert warnings(caplog, Store(), ti) == [CLEAR_DISCARDS_RECORD, *discarded]
        go_on()


def test_a_cleared_try_whose_task_state_was_kept_misses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ti, store = TaskInstance(), Store()
    TaskStateStore(store).write("generation", samples.intent())
    ti.clear()
    assert warnings(caplog, store, ti) == [CLEAR_DISCARDS_RECORD]
    store.break_down("get")  # what cannot be read is not missing
    with pytest.raises(errors.SeedanceStateError):
        warnings(caplog, store, ti)
    for other in (object(), TaskInstance(max_tries=0), TaskInstance(max_tries=None)):  # type: ignore[arg-type]
        assert warnings(caplog, Store(), other, None) == [CLEAR_DISCARDS_RECORD]


@pytest.mark.parametrize("on_3_4", [False, True])
def test_where_records_survive_a_clear_nothing_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, on_3_4: bool
) -> None:
    """Airflow 3.3 keeps them; below, there are none, which every submission says."""
    monkeypatch.setattr(task_state, "AIRFLOW_V_3_4_PLUS", on_3_4)
    ti = TaskInstance()
    ti.clear()
    assert warnings(caplog, None if on_3_4 else Store(), ti) == []


CALLED = {"callback_base_url": "https://airflow.example.com", "callback_secret": "long enough a secret"}


@pytest.mark.parametrize(
    ("api", "connection", "request_", "why"),
    [
        (
            *("seedanceapi-v1", {}, video()),
            "=True needs callback_base_url and callback_secret in the extra of connection 'seedance_test'",
        ),
        (
            *("seedanceapi-v1", {**CALLED, "callback_secret": ""}, video()),
            "=True needs callback_secret in the extra of connection 'seedance_test'",
        ),
        *(
            (
                *(api, CALLED, request),
                f" is True, but {api} does not call back for a request for {request.media}. Leave it out: the render "
                "is polled for",
            )
            for api, request in (("runbase", video()), ("ark", image()))
        ),
        (
            *("ark", CALLED, video(extra_params={"callback_url": "https://a.example"})),
            " is True, and extra_params names a 'callback_url' of its own: the service calls one address only",
        ),
    ],
)
def test_what_a_callback_needs(api: str, connection: dict[str, Any], request_: Any, why: str) -> None:
    with pytest.raises((errors.SeedanceConfigurationError, errors.SeedanceRequestError)) as caught:
        check_callback(settings(api=api, **connection), prepare(api, request_))
    assert caught.value.message == f"use_callback{why}. Nothing was sent."
    check_callback(settings(api="ark", **CALLED), prepare("ark", video(extra_params={"seed": 1})))


ADVICE = "or add the price to prices in the extra of the connection. Nothing was sent."


@pytest.mark.parametrize(
    ("api", "unit", "limit", "why"),
    [
        (
            *("seedance2api", "credits", 40),
            "max_credits=40 cannot be honoured: seedance2api publishes no price at all, item a. Remove max_credits",
        ),
        (
            *("ark", "credits", 40),
            "max_credits=40 cannot be honoured: ark publishes no price in credits, but in US dollars, which max_cost_usd "
            "limits, item a. Remove max_credits",
        ),
        (
            *("ark", "cost_usd", 0.5),
            "max_cost_usd=0.5 cannot be honoured: ark publishes no price for some requests, item a. Remove max_cost_usd",
        ),
    ],
)
def test_a_limit_needs_a_price(api: str, unit: Any, limit: float, why: str) -> None:
    error = no_price_error(get_api(api), unit, limit, "for some requests", ", item a")
    assert error.message == f"{why}, {ADVICE}"


def test_a_limit_of_a_request_whose_price_is_known() -> None:
    api, prepared = get_api("seedanceapi-v1"), prepare("seedanceapi-v1", video())
    check_price_known(api, prepared, {"credits": 5, "cost_usd": 5})
    check_price_known(get_api("runbase"), prepare("runbase", video()), {})
    with pytest.raises(errors.SeedanceConfigurationError, match=r"for this request\. Remove max_cost_usd"):
        check_price_known(get_api("ark"), prepare("ark", video()), {"cost_usd": 5})
