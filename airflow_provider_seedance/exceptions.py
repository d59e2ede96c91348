"""
Errors of this package, one class per meaning.

A retry cannot cure the errors whose ``retry_helps`` is false; Airflow does not retry those. The troubleshooting page
lists every class with what was billed.

Messages say what happened, to which generation, whether money was or may have been spent, and
what to do next. They never contain the API key.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

ErrorScope = Literal["item", "permission", "account", "service", "task"]

_DETAILS = ("http_status", "vendor_code", "method", "path", "generation_id", "retry_after")


class SeedanceError(AirflowException):
    """
    Base of all errors of this package.

    :param message: The event, and advice what to do next.
    :param http_status: HTTP status of the reply, if there was one.
    :param vendor_code: Error code of the service, such as ``INVALID_PROMPT``.
    :param method: HTTP method of the request that failed.
    :param path: Path of that request, below the base URL.
    :param generation_id: Id of the generation, as far as it is known.
    :param retry_after: Seconds after which the service allows another attempt, if it reports them.
    """

    #: Whether an automatic retry of the task can succeed. Where it cannot, the class is also an
    #: ``AirflowFailException``, so that every version of Airflow fails the task at once.
    retry_helps: ClassVar[bool] = True
    #: Scope of the error: this request or its generation (``item``), requests that the key has no permission
    #: for (``permission``), every request of the account (``account``), every request for now (``service``), or
    #: nothing at the service, only this attempt of the task (``task``).
    scope: ClassVar[ErrorScope] = "task"
    #: Word that the result and the manifest of a batch report for an item that failed with this error.
    kind: ClassVar[str] = "error"

    def __init_subclass__(cls, *, scope: ErrorScope | None = None, kind: str | None = None) -> None:
        """Set the properties that the class line declares; the others are inherited."""
        super().__init_subclass__()
        cls.scope = scope or cls.scope
        cls.kind = kind or cls.kind

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        vendor_code: str | None = None,
        method: str | None = None,
        path: str | None = None,
        generation_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.vendor_code = vendor_code
        self.method = method
        self.path = path
        self.generation_id = generation_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return the message, followed by what is known about the call."""
        details = {
            "generation": self.generation_id,
            "HTTP status": self.http_status,
            "code": self.vendor_code,
            "call": f"{self.method} {self.path}" if self.method and self.path else None,
        }
        known = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
        return f"{self.message} ({known})" if known else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling with every attribute."""
        return partial(type(self), **self.details()), (self.message,)

    def details(self) -> dict[str, Any]:
        """Return the keyword arguments of the error."""
        return {name: getattr(self, name) for name in _DETAILS}


class _Final(AirflowFailException):
    """Mixin of errors that a retry cannot cure."""

    retry_helps: ClassVar[bool] = False


class SeedanceConfigurationError(_Final, SeedanceError, kind="configuration"):
    """The connection, its extra, or an operator argument is unusable. Nothing was sent; a retry cannot help."""


class SeedanceRequestError(_Final, SeedanceError, scope="item", kind="request"):
    """The service does not accept this request (found before sending, or HTTP 400/422). Not billed; a retry cannot help."""


class SeedanceRequestChangedError(SeedanceRequestError, kind="changed"):
    """The request of a retry differs from the one that was paid for. Nothing new was submitted; a retry cannot help."""


class SeedanceMaxCreditsError(SeedanceRequestError):
    """The request costs more than is left of ``max_credits`` or ``max_cost_usd``. Not sent, not billed; a retry cannot help."""


class SeedanceAuthenticationError(_Final, SeedanceError, scope="account", kind="authentication"):
    """The service did not accept the API key (HTTP 401). Not billed; a retry cannot help before the connection is corrected."""


class SeedanceInsufficientCreditsError(_Final, SeedanceError, scope="account", kind="insufficient_credits"):
    """The account has too few credits (HTTP 402). Not billed; a retry cannot help before it is topped up."""


class SeedanceBudgetError(_Final, SeedanceError, scope="account", kind="budget"):
    """
    The render would exceed a budget of its connection. Nothing was sent; a retry cannot help before the budget renews.

    :param limit: The budget, in US dollars or credits.
    :param spent: Cost of the renders that have ended in its present period.
    :param reserved: Estimated cost of those that have not.
    :param renews_at: Start of the next period, or ``None`` if there is none.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: float | None = None,
        spent: float | None = None,
        reserved: float | None = None,
        renews_at: datetime | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.limit, self.spent, self.reserved, self.renews_at = limit, spent, reserved, renews_at

    def details(self) -> dict[str, Any]:
        """Return the keyword arguments of the error."""
        own = {name: getattr(self, name) for name in ("limit", "spent", "reserved", "renews_at")}
        return {**super().details(), **own}


class SeedanceForbiddenError(_Final, SeedanceError, scope="permission", kind="forbidden"):
    """The key has no permission: plan, spend limit, IP address or region (HTTP 403). Not billed; a retry cannot help."""


class SeedanceNotFoundError(_Final, SeedanceError, scope="item", kind="not_found"):
    """The service does not know this generation, or not under this key (HTTP 404). A retry cannot help."""


class SeedanceRateLimitError(SeedanceError, scope="service"):
    """
    The quota of the key is used up (HTTP 429), or a budget with ``on_budget="wait"`` on a worker.

    Not billed; a retry helps after ``retry_after`` seconds.
    """


class SeedanceModerationError(_Final, SeedanceError, scope="item", kind="moderation"):
    """The service refused the prompt, an input or the output on content grounds. The same request is refused again."""


class SeedanceServerError(SeedanceError, scope="service"):
    """The service failed, or its reply is not documented. A retry helps; a paid render is re-attached."""


class SeedanceConnectionError(SeedanceError, scope="service"):
    """The service could not be reached, or the connection broke. A retry helps; a paid render is re-attached."""


class SeedanceUncertainSubmitError(_Final, SeedanceError, scope="item", kind="uncertain"):
    """The outcome of a submission is unknown: it may have been billed. Never repeated without a decision by a person."""


class SeedanceGenerationFailedError(SeedanceError, scope="item", kind="failed"):
    """The service ended the generation as failed or expired. A retry submits (and pays for) a new one."""


class SeedanceGenerationCancelledError(_Final, SeedanceGenerationFailedError, kind="cancelled"):
    """The generation was cancelled at the service by a person. Not repeated by a retry; clear the task to submit anew."""


class SeedanceBatchError(SeedanceError):
    """Some renders of a batch failed. A retry submits (and pays for) only those that it can cure; the others are kept."""


class SeedanceBatchFinalError(_Final, SeedanceBatchError):
    """Some renders of a batch failed, none of which a retry can cure. What succeeded is kept; clear the task to go on."""


class SeedanceTimeoutError(SeedanceError, kind="timeout"):
    """The generation did not end in time. It goes on and is billed; a retry waits for the same one again."""


class SeedanceMediaError(SeedanceError):
    """An output could not be downloaded or stored. Nothing is paid twice; a retry downloads again."""


class SeedanceMediaHostError(_Final, SeedanceMediaError):
    """The host of an output's URL is not allowed (see ``media_hosts``). Nothing was sent there; a retry cannot help."""


class SeedanceMediaTooLargeError(_Final, SeedanceMediaError):
    """An output is larger than ``max_media_bytes`` of the connection. It was not stored; a retry cannot help."""


class SeedanceOutputGoneError(_Final, SeedanceMediaError, scope="item", kind="output_gone"):
    """The generation succeeded and was billed, but its output is no longer available. A retry cannot help."""


class SeedanceMediaRejectedError(_Final, SeedanceMediaError):
    """A stored file is not what was requested, and ``verify="fail"``. It is kept and was billed; a retry cannot help."""


class SeedanceDestinationExistsError(_Final, SeedanceMediaError):
    """The destination exists and ``overwrite=False``. Nothing was downloaded; a retry cannot help."""


class SeedanceStateError(SeedanceError):
    """Airflow's task state store could not be read or written. Nothing was submitted; a retry helps."""


class SeedanceLedgerError(SeedanceStateError):
    """The ledger could not be reached or used. Nothing was submitted; a retry helps when it can be used again."""


class SeedanceRecordError(_Final, SeedanceStateError):
    """The record of an earlier submission cannot be parsed. Nothing was submitted: it is not the same as no record."""


class SeedanceUnrecordedError(_Final, SeedanceStateError):
    """The task failed after a submission without a record (Airflow below 3.3). A retry would pay twice."""
