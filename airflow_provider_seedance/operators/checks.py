"""What is judged of an operator before anything is sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.base import Api
    from airflow_provider_seedance.apis.validation import Prepared
    from airflow_provider_seedance.operators.base import SeedanceOperator
    from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator
    from airflow_provider_seedance.settings import Settings

#: Longest time that an argument may name, in seconds: beyond a year it is a mistake, and dates overflow.
LONGEST = 366 * 86400.0


def check_arguments(operator: SeedanceOperator) -> None:
    """
    Judge the arguments that are no templates.

    :raises SeedanceConfigurationError: with every problem in one message; nothing was sent.
    """
    problems = []
    if operator.on_uncertain_submit not in ("fail", "resubmit"):
        problems.append(
            f"on_uncertain_submit is {operator.on_uncertain_submit!r}; it takes 'fail' or 'resubmit'"
        )
    for name in ("timeout", "poll_interval"):
        value = getattr(operator, name)
        if not (value is None and name == "poll_interval") and not _seconds(value):
            problems.append(f"{name} is {value!r}; it takes a positive number of seconds, at most a year")
    for name in ("deferrable", "use_callback", "cancel_on_kill", "end_from_trigger"):
        value = getattr(operator, name)
        if not isinstance(value, bool):
            problems.append(f"{name} is {value!r}; it takes True or False")
    credits = operator.max_credits
    if credits is not None and not (_finite(credits) and credits >= 0):
        problems.append(f"max_credits is {credits!r}; it takes a number of credits")
    if operator.use_callback is True and operator.deferrable is False:
        problems.append(
            "use_callback needs deferrable=True: nobody could resume a task that waits on a worker"
        )
    if operator.end_from_trigger is True:
        problems += _against_ending_from_trigger(operator)
    if problems:
        raise errors.SeedanceConfigurationError(f"{'; '.join(problems)}. Nothing was sent.")


def check_batch(operator: SeedanceGenerateVideoBatchOperator) -> None:
    """
    Judge what only the batch operator has.

    :raises SeedanceConfigurationError: with every problem in one message; nothing was sent.
    """
    problems = []
    most: object = operator.max_in_flight
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        problems.append(f"max_in_flight is {most!r}; it takes a whole number of renders, at least 1")
    if operator.on_item_failure not in ("fail", "keep"):
        problems.append(f"on_item_failure is {operator.on_item_failure!r}; it takes 'fail' or 'keep'")
    dry_run: object = operator.only_estimate
    if not isinstance(dry_run, bool):
        problems.append(f"dry_run is {dry_run!r}; it takes True or False")
    if operator.end_from_trigger is True:
        problems.append(
            "end_from_trigger cannot be used with a batch: the triggerer can neither submit what waits nor write "
            "records and manifest"
        )
    if operator.use_callback is True:
        problems.append(
            "use_callback cannot be used with a batch: every call would take a worker to look at one of its many "
            "renders, while one request of the triggerer asks for many"
        )
    if problems:
        raise errors.SeedanceConfigurationError(f"{'; '.join(problems)}. Nothing was sent.")


def check_rendered(operator: SeedanceOperator) -> None:
    """
    Judge what is known only when the task runs.

    :raises SeedanceConfigurationError: nothing was sent.
    """
    if operator.on_clear not in ("reuse", "new"):
        raise errors.SeedanceConfigurationError(
            f"on_clear is {operator.on_clear!r}; it takes 'reuse' or 'new'. Nothing was sent."
        )
    mapped = operator.end_from_trigger and operator.get_dag() and any(operator.iter_mapped_dependants())
    if mapped:
        raise errors.SeedanceConfigurationError(
            "end_from_trigger cannot be used while another task is mapped over the result: Airflow would "
            "not learn its length. Nothing was sent."
        )


def check_callback(settings: Settings, prepared: Prepared) -> None:
    """
    Judge whether the service can call this Airflow about a request.

    :raises SeedanceConfigurationError: the connection lacks what that takes; nothing was sent.
    :raises SeedanceRequestError: the service does not call back for this request; nothing was sent.
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


def check_price(api: Api, prepared: Prepared, max_credits: float | None) -> None:
    """
    Hold a request against ``max_credits``.

    :raises SeedanceConfigurationError: the service publishes no price for it; nothing was sent.
    :raises SeedanceRequestError: it costs more; nothing was sent.
    """
    if max_credits is None:
        return
    price = prepared.result_defaults.credits
    if price is None:
        known = "for this request" if api.publishes_prices else "at all"
        raise errors.SeedanceConfigurationError(
            f"max_credits={max_credits:g} cannot be honoured: {api.name} publishes no price {known}. "
            "Remove max_credits or use a service with prices. Nothing was sent."
        )
    if price > max_credits:
        raise errors.SeedanceRequestError(
            f"The request costs {price:g} credits, more than max_credits={max_credits:g}. Nothing was sent."
        )


def _against_ending_from_trigger(operator: SeedanceOperator) -> list[str]:
    why = []
    if not AIRFLOW_V_3_3_PLUS:
        why.append("end_from_trigger needs Airflow 3.3: before it, a trigger cannot write XCom")
    if not operator.deferrable:
        why.append("end_from_trigger needs deferrable=True: there is no trigger otherwise")
    if operator.outlets:
        why.append("end_from_trigger cannot be used with outlets: no asset event would be sent")
    if operator.on_success_callback:
        why.append("end_from_trigger cannot be used with on_success_callback: it would not be called")
    if not operator.do_xcom_push or operator.multiple_outputs:
        why.append("end_from_trigger cannot be used with do_xcom_push=False or multiple_outputs=True")
    return why


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: Any) -> bool:
    return _finite(value) and 0 < value <= LONGEST
