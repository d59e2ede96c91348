"""Errors and decisions at the end of a wait: the error of a terminal state, and the next step of a resumed task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.parsing import is_invalid_request, is_moderation
from airflow_provider_seedance.generations import Generation, GenerationStatus, utc_now
from airflow_provider_seedance.polling.wait_state import WaitStep, default_timing, lacks_output, quota_backoff


@dataclass(frozen=True, slots=True)
class ResumeStep:
    """
    Next step of a task that was resumed without a complete event and has sent one status request.

    :param kind: ``ended`` (terminal generation in ``generation``), ``wait`` (defer again until ``until``),
        ``unknown`` (the service does not know the generation) or ``deadline`` (the timeout has passed).
    :param generation: The generation, if the service returned it.
    :param until: Seconds since 1970 until which to wait.
    :param rate_limited: The rate limit prevented the status request; wait past the deadline if necessary.
    """

    kind: Literal["ended", "wait", "unknown", "deadline"]
    generation: Generation | None = None
    until: float = 0.0
    rate_limited: bool = False


def after_resume(
    reading: Generation | errors.SeedanceError,
    *,
    deadline: float,
    now: float,
    max_quota_wait: float | None = None,
    repeatedly_unknown: bool = False,
) -> ResumeStep:
    """
    Decide the next step of a resumed task, after one status request.

    :param repeatedly_unknown: Whether the wait has ended because the service repeatedly did not know the generation.
        A single such reply is a failed request: a service may know a new id late.
    :param max_quota_wait: Seconds past the deadline for which a rate limit extends the wait; the limit of a
        deferred wait by default.
    """
    generation = reading if isinstance(reading, Generation) else None
    if generation and generation.status.terminal and not (lacks_output(generation) and now < deadline):
        return ResumeStep("ended", generation)
    if isinstance(reading, errors.SeedanceNotFoundError) and (
        repeatedly_unknown or reading.http_status is None
    ):
        return ResumeStep("unknown")
    limit = default_timing().max_quota_wait if max_quota_wait is None else max_quota_wait
    if isinstance(reading, errors.SeedanceRateLimitError) and now < deadline + limit:
        # Our own rate limit prevented the request, so the generation may have ended in time.
        until = max(deadline, now + quota_backoff(reading))
        return ResumeStep("wait", until=until, rate_limited=True)
    if now < deadline:
        return ResumeStep("wait", generation, until=deadline)
    return ResumeStep("deadline", generation)


def generation_of(step: WaitStep, timeout: float) -> Generation:
    """Return the terminal generation of a wait, or raise the error of another end of a wait this long."""
    if step.kind == "ended" and step.state.last is not None:
        return step.state.last
    generation_id = step.state.generation_id
    if step.kind == "unknown":
        raise unknown_to_the_service(generation_id)
    raise timed_out(generation_id, timeout, step.state.last, step.state.result_defaults)


def raise_unless_succeeded(generation: Generation) -> Generation:
    """
    Return a generation that succeeded, or raise the error of its terminal status.

    :raises SeedanceModerationError: its content was refused.
    :raises SeedanceGenerationCancelledError: a user cancelled it.
    :raises SeedanceOutputGoneError: it succeeded but its output cannot be downloaded.
    :raises SeedanceRequestError: it failed because of the arguments of the request.
    :raises SeedanceGenerationFailedError: it failed or expired.
    """
    known: dict[str, Any] = {"generation_id": generation.generation_id, "vendor_code": generation.error_code}
    reason = f": {generation.error_message.rstrip('.')}" if generation.error_message else ""
    if generation.status is GenerationStatus.SUCCEEDED:
        if not generation.output_gone(utc_now()):
            return generation
        raise errors.SeedanceOutputGoneError(
            f"Generation {generation.generation_id} succeeded and is billed, but its output is not available"
            f"{reason}. Look for it in the console of the service.",
            **known,
        )
    if is_moderation(generation.error_code) or is_moderation(generation.error_message):
        raise errors.SeedanceModerationError(
            f"{generation.api} refused the content of generation {generation.generation_id}{reason}. The same "
            "request would be refused again, so it is not retried.",
            **known,
        )
    if generation.status is GenerationStatus.CANCELLED:
        raise errors.SeedanceGenerationCancelledError(
            f"Generation {generation.generation_id} was cancelled at {generation.api} by a person{reason}. A retry "
            "does not submit it again; clear the task to submit anew.",
            **known,
        )
    if is_invalid_request(generation.error_code):
        raise errors.SeedanceRequestError(
            f"Generation {generation.generation_id} failed at {generation.api}{reason}. The same request would fail "
            "again, so it is not retried. Correct its arguments and clear the task.",
            **known,
        )
    raise errors.SeedanceGenerationFailedError(
        f"Generation {generation.generation_id} {generation.status.value} at {generation.api}{reason}. Whether a "
        f"{generation.status.value} render is billed is the service's decision; a retry submits a new one.",
        **known,
    )


def unknown_to_the_service(generation_id: str) -> errors.SeedanceNotFoundError:
    """Return the error for a generation that the service accepted and no longer knows."""
    return errors.SeedanceNotFoundError(
        f"The service says repeatedly that it does not know generation {generation_id}, which it had "
        "accepted: does the connection use another key or base URL now? It may be billed.",
        generation_id=generation_id,
    )


def timed_out(
    generation_id: str, timeout: float, last: Generation | None, result_defaults: Mapping[str, Any]
) -> errors.SeedanceTimeoutError:
    """Return the error for a generation that did not end before the deadline of its wait."""
    state = f"was {last.status.value} when last read" if last else "could not be read"
    return errors.SeedanceTimeoutError(
        f"Generation {generation_id} did not end within {timeout:g} s and {state}. {goes_on(result_defaults)}; a retry "
        "waits for the same one and does not submit again.",
        generation_id=generation_id,
    )


def goes_on(result_defaults: Mapping[str, Any]) -> str:
    """Return the words for a render that is not waited for any longer, with the task instance that pays for a reused one."""
    if payer := result_defaults.get("reused_from"):
        mapped = f" (map index {payer['map_index']})" if payer["map_index"] >= 0 else ""
        return f"The render goes on and is billed to {payer_text(payer)}{mapped}, not to this task"
    return "The render goes on and is billed"


def payer_text(payer: Mapping[str, Any]) -> str:
    """Return the words for the task instance that has paid for a reused render."""
    return "task {task_id!r} of run {run_id!r} of Dag {dag_id!r}".format(**payer)
