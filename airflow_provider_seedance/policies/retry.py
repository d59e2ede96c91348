"""Retry policy of the operators and the sensor (Airflow 3.3 and later)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_3_PLUS, RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from typing import Self

    from airflow.sdk.definitions.context import Context


class SeedanceRetryPolicy(RetryPolicy):
    """
    Retries errors that a retry can help, when it can help.

    * An error that a retry cannot help (``SeedanceError.retry_helps`` is false) fails the task immediately.
    * An error that names the time after which the service accepts requests again is retried then. That uses up one of
      the task's ``retries``; a deferrable task waits for its quota without using one.
    * Other errors follow ``retries`` and ``retry_delay`` of the task.

    The operators set it unless the Dag sets another.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Return the decision for an exception; see the class."""
        if not isinstance(exception, SeedanceError):
            return RetryDecision.default()
        if not exception.retry_helps:
            return RetryDecision.fail(f"{type(exception).__name__}: a retry cannot help")
        if exception.retry_after is not None:
            return RetryDecision.retry(
                timedelta(seconds=exception.retry_after),
                f"the service accepts requests again in {exception.retry_after:.0f} s; this uses up a retry",
            )
        return RetryDecision.default()

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
