"""Retry policy of the operators and the sensor (Airflow 3.3 and later)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.version_compat import (
    AIRFLOW_V_3_3_PLUS,
    AIRFLOW_V_3_4_PLUS,
    RetryDecision,
    RetryPolicy,
)

if TYPE_CHECKING:
    from typing import Self

    from airflow.sdk.definitions.context import Context

#: Limit for the rescheduling of one try; a deferrable task waits as long for its quota.
RESCHEDULE_TIMEOUT = timedelta(days=7)


class SeedanceRetryPolicy(RetryPolicy):
    """
    Retry policy that retries the errors that a retry can cure, when it can cure them.

    * An error that a retry cannot help (``SeedanceError.retry_helps`` is false) fails the task immediately.
    * An error with ``retry_after``, the time after which a request can succeed, runs the task again then. A quota has one, and
      a budget with ``on_budget="wait"``. From Airflow 3.4 on that uses no retry for a week; below, it uses up one of the
      task's ``retries``.
    * Other errors follow ``retries`` and ``retry_delay`` of the task, or the next policy of a ``ChainRetryPolicy``.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Return the decision for an exception; see the class."""
        if not isinstance(exception, SeedanceError):
            return RetryDecision.default()
        if not exception.retry_helps:
            return RetryDecision.fail(f"{type(exception).__name__}: a retry cannot help")
        if exception.retry_after is None:
            return RetryDecision.default()
        wait = timedelta(seconds=exception.retry_after)
        reason = f"a request can succeed in {wait.total_seconds():.0f} s"
        if AIRFLOW_V_3_4_PLUS:
            return RetryDecision.reschedule(  # type: ignore[attr-defined, no-any-return, unused-ignore]
                wait, reschedule_timeout=RESCHEDULE_TIMEOUT, reason=reason
            )
        return RetryDecision.retry(wait, f"{reason}; this uses up a retry")

    def serialize(self) -> dict[str, Any]:
        """Return the arguments of the policy: none."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """Return the policy."""
        return cls()


class SeedanceTaskMixin:
    """Color and retry policy of all operators and sensors of this package."""

    ui_color = "#efe6ff"
    retry_policy: Any

    def set_retry_policy(self) -> None:
        """Set the retry policy unless the Dag has set one; call this at the end of ``__init__``."""
        if AIRFLOW_V_3_3_PLUS and getattr(self, "retry_policy", None) is None:
            self.retry_policy = SeedanceRetryPolicy()
