"""
XComs of a try beside its result: the memory of a deferral that failed, and reports for the Renders page.

A problem with them never fails a task whose render is paid for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance import exceptions as errors

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

log = logging.getLogger(__name__)

#: Key of the report of a batch that has no result, of the result of a generation that failed, or of its kind of failure.
REPORT_KEY = "seedance_report"

#: Key of the time at which the render of a task is expected to end.
ENDS_AT_KEY = "seedance_ends_at"

#: Key of the message of the error that failed the try.
ERROR_KEY = "seedance_error"


def push_xcom(ti: Any, key: str, value: Any) -> bool:
    """Push a value of the running try, and return whether that succeeded; never raises."""
    try:
        ti.xcom_push(key=key, value=value)
        return True
    except Exception as error:
        log.warning("XCom %s could not be pushed: %s", key, error)
        return False


def pull_xcom(ti: Any, key: str) -> Any:
    """Return a value that the running try pushed, or ``None``; never raises."""
    try:
        return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
    except Exception as error:
        log.warning("XCom %s could not be pulled: %s", key, error)
        return None


@contextmanager
def reported_error(context: Context) -> Iterator[None]:
    """Push the message of an error of this package; Airflow keeps it in the log only."""
    try:
        yield
    except errors.SeedanceError as error:
        push_xcom(context["ti"], ERROR_KEY, str(error))
        if isinstance(error, errors.SeedanceUncertainSubmitError):
            push_xcom(context["ti"], REPORT_KEY, {"kind": error.kind})
        raise
