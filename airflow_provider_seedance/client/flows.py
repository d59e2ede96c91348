"""
Exchanges with a service that take more than one call, as generators without I/O.

A flow yields calls and pauses and is sent replies; the client drives it, with or without ``await``. So both clients
retry by the same rules:

* A **submission** is repeated only after a reply that proves that it was not accepted, only for a few
  seconds, and never after an uncertain outcome.
* A **read** costs quota only, so it is repeated after broken connections and server errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis import messages
from airflow_provider_seedance.apis.base import Api, Flow
from airflow_provider_seedance.generations import Generation, GenerationRequest, Media

T = TypeVar("T")

#: Wait on a worker for a submission to be accepted; for a longer one the task defers or fails.
MAX_INLINE_WAIT_SECONDS = 10.0

#: The same where another connection may be tried next: a service that has not accepted a submission for half a minute,
#: or that names a longer wait than a minute, is given up.
FALLBACK_AFTER_SECONDS = 30.0
MAX_FALLBACK_WAIT_SECONDS = 60.0

#: Scopes of the errors that leave a look-up unanswered; some of them a person has to solve first.
_UNANSWERED: frozenset[errors.ErrorScope] = frozenset({"service", "account", "permission"})

#: Prefix of ids that this package assigns to replies without an id.
LOCAL_PREFIX = "local-"

Now = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """
    Result of an attempt to cancel.

    :param reason: Explanation for the log; if not cancelled, why, and that it goes on and is billed.
    :param cancelled: Whether the service removed the generation from its queue.
    """

    reason: str
    cancelled: bool = False

    def __bool__(self) -> bool:
        return self.cancelled


def submit_flow(
    api: Api,
    call: messages.HttpCall,
    request: GenerationRequest,
    now: Now,
    *,
    retry_inline: bool = True,
    has_fallback: bool = False,
) -> Flow[messages.SubmitOutcome]:
    """
    Submit once; repeat only a submission that the service certainly did not accept.

    :param retry_inline: Whether to repeat it here, after short waits.
    :param has_fallback: Whether another connection is tried next: then it is repeated here in any case, for longer.
    """
    timing = api.timing
    backoff = iter(timing.fallback_backoff if has_fallback else timing.submit_backoff if retry_inline else ())
    max_pause, started = MAX_FALLBACK_WAIT_SECONDS if has_fallback else MAX_INLINE_WAIT_SECONDS, now()
    while True:
        answer = yield call
        assert answer is not None
        outcome = api.read_submit(answer, call, request, now())
        pause = next(backoff, None)
        if not isinstance(outcome, messages.NotAccepted) or pause is None:
            return outcome
        if (named := outcome.error.retry_after) is not None:
            pause = max(pause, named) if has_fallback else named
        given_up = has_fallback and (now() - started).total_seconds() >= FALLBACK_AFTER_SECONDS
        if pause > max_pause or given_up:
            return outcome
        yield messages.Pause(pause)


def raise_outcome(outcome: messages.SubmitOutcome) -> Generation:
    """
    Return the generation of an accepted submission, or raise the error of its outcome.

    :raises SeedanceUncertainSubmitError: it is unknown whether it was billed.
    :raises SeedanceError: the service rejected it.
    """
    if isinstance(outcome, messages.Uncertain):
        what = f"The submission was sent and its fate is unknown: {outcome.error.message}".rstrip(".")
        next_step = "Submit again only if it is not there."
        raise uncertain_error(what, "the service", next_step, cause=outcome.error)
    if isinstance(outcome, (messages.NotAccepted, messages.Refused)):
        raise outcome.error
    return outcome.generation


def uncertain_error(
    what: str, api: str, next_step: str, *, cause: errors.SeedanceError | None = None
) -> errors.SeedanceUncertainSubmitError:
    """
    Return the error for a submission whose fate is unknown.

    :param next_step: Advice for the time after a look into the console of the service.
    """
    error = errors.SeedanceUncertainSubmitError(
        f"{what}. One generation may have been billed at {api} without its id being known here; it is not "
        f"submitted again. Check the console of the service for it. {next_step}",
        **(errors.SeedanceError.details(cause) if cause else {}),
    )
    error.__cause__ = cause
    return error


def read_flow(make: Callable[[], Flow[T]], backoff: tuple[float, ...]) -> Flow[T]:
    """
    Repeat a reading flow after broken connections and server errors.

    A 429 is raised: the scheduler of the polls has to account for it.
    """
    for pause in backoff:
        try:
            return (yield from make())
        except (errors.SeedanceConnectionError, errors.SeedanceServerError):
            yield messages.Pause(pause)
    return (yield from make())


def status_flow(
    api: Api, generation_id: str, media: Media, now: Now, *, once: bool = False
) -> Flow[Generation]:
    """
    Read a generation.

    :param once: Whether to try once only, for callers that repeat it themselves.
    :raises SeedanceNotFoundError: the service does not know it, or it is a synchronous reply without an id.
    :raises SeedanceError: its state could not be read.
    """
    if generation_id.startswith(LOCAL_PREFIX):
        raise errors.SeedanceNotFoundError(
            f"{generation_id} names a synchronous answer, which {api.name} keeps no record of: its outputs can "
            "only be had from the result that came with it.",
            generation_id=generation_id,
        )
    return read_flow(
        lambda: api.status_flow(generation_id, media, now()), () if once else api.timing.read_backoff
    )


def final_status_flow(api: Api, generation_id: str, media: Media, now: Now) -> Flow[Generation]:
    """Read a generation after the callback about its end, which may be wrong."""
    return read_flow(lambda: api.final_status_flow(generation_id, media, now()), api.timing.read_backoff)


def look_up_flow(
    api: Api, correlation: str, since: datetime, now: Now, model: str | None = None
) -> Flow[str | None]:
    """
    Look up a submission whose reply was lost; return ``None`` if it is not found.

    That proves nothing: the outcome remains uncertain.

    :raises SeedanceError: the look-up was not answered (see ``scope``); it may be later.
    """
    failure: errors.SeedanceError | None = None
    for number, pause in enumerate((0.0, *api.timing.look_up_backoff)):
        if number:
            yield messages.Pause(pause)
        try:
            found = yield from api.look_up_flow(correlation, since, now(), model)
        except errors.SeedanceError as error:
            failure = error
            continue
        if found:
            return found
        failure = None
    if failure and failure.scope in _UNANSWERED:
        raise failure
    return None


def cancel_flow(api: Api, generation_id: str, media: Media, now: Now) -> Flow[Cancellation]:
    """
    Cancel a generation, if the service can and the generation is queued.

    At ark the same call deletes the result of a finished generation, so the status is read first.
    """
    goes_on = f"generation {generation_id} goes on at {api.name} and is billed"
    if not api.can_cancel:
        return Cancellation(reason=f"{api.name} offers no way to cancel: {goes_on}")
    try:
        generation = yield from status_flow(api, generation_id, media, now, once=True)
    except errors.SeedanceNotFoundError as error:
        return Cancellation(reason=f"{error.message} Nothing was cancelled; a render that exists is billed")
    except errors.SeedanceError as error:
        return Cancellation(reason=f"its state could not be read ({error.message}): {goes_on}")
    if generation.status.terminal:
        return Cancellation(reason=f"generation {generation_id} has already ended: {generation.status.value}")
    if not api.may_cancel(generation):
        return Cancellation(
            reason=f"{api.name} cancels only what is queued, and it is {generation.status.value}: {goes_on}"
        )
    call = api.cancel_call(generation_id)
    answer = yield call
    assert answer is not None
    if isinstance(answer, messages.TransportFailure):
        return Cancellation(reason=f"the request to cancel failed ({answer.message})")
    if not answer.ok:
        refusal = api.error_for(answer, call, now=now(), generation_id=generation_id)
        return Cancellation(reason=f"the service refused to cancel ({refusal.message}): {goes_on}")
    return Cancellation(
        cancelled=True, reason=f"generation {generation_id} was queued and is cancelled; it is not billed"
    )


def probe_flow(api: Api, now: Now, model: str | None = None) -> Flow[str]:
    """
    Verify the key, by a call that cannot cost money.

    :param model: Of the connection; a key may have permission for some models only.
    :raises SeedanceError: it is not accepted, or the service cannot be reached.
    """
    call = api.probe_call()
    answer = yield call
    by_model = api.probe_call(model)
    if isinstance(answer, messages.HttpReply) and answer.status in (400, 403) and call != by_model:
        call = by_model
        answer = yield call
    try:
        api.check(answer, call, None, now())
    except (errors.SeedanceNotFoundError, errors.SeedanceRequestError):
        # Both prove that the service accepted the key and looked for the generation, unless another server
        # replied that does not know the path.
        if (
            not api.probe_misses
            or not isinstance(answer, messages.HttpReply)
            or not isinstance(answer.json, dict)
        ):
            raise
    return f"{api.title} accepts the API key."
