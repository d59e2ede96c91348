"""The retry policy of the operators (Airflow 3.3 and later)."""

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
    Retries what a retry can cure, when it can cure it.

    * An error that no retry can cure (``SeedanceError.retry_helps`` is false) fails the task at once.
    * An error that names the time after which the service takes requests again is retried then. That
      uses up one of the task's ``retries``; a deferrable task waits for its quota without using one.
    * Anything else follows ``retries`` and ``retry_delay`` of the task.

    The operators set it unless the Dag sets another.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide what follows from an exception; see the class."""
        if not isinstance(exception, SeedanceError):
            return RetryDecision.default()
        if not exception.retry_helps:
            return RetryDecision.fail(f"{type(exception).__name__}: a retry cannot help")
        if exception.retry_after is not None:
            return RetryDecision.retry(
                timedelta(seconds=exception.retry_after),
                f"the service takes requests again in {exception.retry_after:.0f} s; this uses up a retry",
            )
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return what is needed to make the policy again: nothing."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """Make the policy again."""
        return cls()


class SeedanceTaskMixin:
    """What the operators and sensors of this package share: color, and retry policy unless the Dag sets one."""

    ui_color = "#efe6ff"
    retry_policy: RetryPolicy | None

    def set_retry_policy(self) -> None:
        """Set :class:`SeedanceRetryPolicy` on a task that has no other (Airflow 3.3 and later)."""
        if AIRFLOW_V_3_3_PLUS and getattr(self, "retry_policy", None) is None:
            self.retry_policy = SeedanceRetryPolicy()
