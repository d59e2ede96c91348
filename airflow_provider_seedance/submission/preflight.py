"""Checks of a prepared request against the connection, the budget and the record store of its task, before anything is sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.generations import MAX_ARGUMENTS, Unit
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.store import RecordStore

log = logging.getLogger(__name__)

#: Consequence of a clear that discards the task state, for the log and the test of a connection.
CLEAR_DISCARDS_RECORD = (
    "From Airflow 3.4 on, clearing a task instance discards its task state, and the record of its paid render with it: "
    "the next try submits and pays again. Choose 'Keep task state and resume' when you clear it; clearing the whole "
    "Dag run keeps it."
)


def check_callback(settings: Settings, prepared: Prepared) -> None:
    """
    Check whether the service can call this Airflow about a request.

    :raises SeedanceConfigurationError: the connection lacks a setting of callbacks; nothing was sent.
    :raises SeedanceRequestError: the service sends no callback for this request; nothing was sent.
    """
    api, request = settings.api, prepared.request
    missing = [name for name in ("callback_base_url", "callback_secret") if not getattr(settings, name)]
    if missing:
        raise errors.SeedanceConfigurationError(
            f"use_callback=True needs {' and '.join(missing)} in the extra of connection {settings.conn_id!r}. "
            "Nothing was sent."
        )
    if not api.callback_field or not api.takes_callback(request):
        raise errors.SeedanceRequestError(
            f"use_callback is True, but {api.name} does not call back for a request for {request.media}. Leave it "
            "out: the render is polled for. Nothing was sent."
        )
    if api.callback_field in (request.extra_params or {}):
        raise errors.SeedanceRequestError(
            f"use_callback is True, and extra_params names a {api.callback_field!r} of its own: the service calls "
            "one address only. Nothing was sent."
        )


def no_price_error(
    api: Api, unit: Unit, limit: float, which: str, keys: str = ""
) -> errors.SeedanceConfigurationError:
    """Return the error for a limit of the task where the price of some requests, or of any, is not known."""
    rules = api.published.prices.rules
    if not rules:
        which = "at all"
    elif unit == "credits" and not any(rule.in_credits for rule in rules):
        which = "in credits, but in US dollars, which max_cost_usd limits"
    return errors.SeedanceConfigurationError(
        f"{MAX_ARGUMENTS[unit]}={limit:g} cannot be honoured: {api.name} publishes no price "
        f"{which}{keys}. "
        f"Remove {MAX_ARGUMENTS[unit]}, or add the price to prices in the extra of the connection. Nothing was sent."
    )


def check_price_known(api: Api, prepared: Prepared, limits: Mapping[Unit, float]) -> None:
    """
    Check that limits of the cost can be kept.

    :raises SeedanceConfigurationError: the price of the request is not known in the unit of one; nothing was sent.
    """
    for unit, limit in limits.items():
        if getattr(prepared.result_defaults, unit) is None:
            raise no_price_error(api, unit, limit, "for this request")


def warn_of_discarded_records(store: RecordStore, ti: Any, retries: int | None) -> None:
    """
    Warn, once per try, where a clear of the task instance discards its records.

    A clear raises ``max_tries`` above the retries of the task, so a try after it knows that a record may be missing.

    :param ti: The running task instance.
    :param retries: Of the task.
    :raises SeedanceError: the records cannot be read; nothing was sent.
    """
    if not store.durable or store.survives_clear:
        return
    log.warning("%s", CLEAR_DISCARDS_RECORD)
    if (getattr(ti, "max_tries", 0) or 0) > (retries or 0) and not any(store.records().values()):
        log.warning(
            "The task was cleared, and its task state holds no record. An earlier try may have submitted a generation, "
            "whose record was discarded; it goes on and is billed. This try submits anew."
        )
