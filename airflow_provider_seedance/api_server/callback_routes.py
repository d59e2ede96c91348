"""
The route that services call. It answers the same whatever it makes of a call, and learns nobody anything.

Imported by the API server only: everything else would pay for FastAPI without using it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from airflow_provider_seedance.api_server import callback_delivery
from airflow_provider_seedance.api_server.callback_confirmation import read_end
from airflow_provider_seedance.callbacks.payload import LONGEST_BODY, CallbackPayload, parse_payload
from airflow_provider_seedance.callbacks.signatures import verify_signature
from airflow_provider_seedance.callbacks.tokens import ROUTE, CallbackClaims, decode_unverified, proves
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.triggers.seedance import make_event

log = logging.getLogger(__name__)

router = APIRouter()

#: So many callbacks are worked on at once; the database is what they wait for.
AT_ONCE = 2

#: So many may wait for that. Beyond it the service is asked to call again; and there are still the polls.
MOST_WAITING = 20_000

#: Seconds for which a callback that came too early is tried again.
PATIENCE = 120.0

#: Pauses grow by this factor.
GROWTH = 1.6

#: Seconds for which a connection is not looked up again, and how many are remembered.
REMEMBERED = 30.0
MOST_REMEMBERED = 256

#: Seconds for which a connection that was not found is not looked up again.
REMEMBERED_MISSING = 3.0

#: Seconds for which one that was known goes on to be, while it is not found.
TRUSTED = 600.0

#: Seconds for which one that names an id is tried again while the database fails: where the reply to a
#: submission was lost, a task waits ten minutes for that id, and nobody tells it twice. Only the database knows.
PATIENCE_FOR_AN_ID = 900.0

#: So often it is tried at the least: one attempt may take longer than all patience.
TRIES = 5

#: Seconds between the first two attempts on a database that fails. The pauses double, up to so many seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0

#: Different things told of one submission that are worked on at once: an honest service tells one or two.
MOST_OF_ONE = 8

#: Seconds for a body to arrive: it is small, and whoever sends it byte by byte means no good.
BODY_PATIENCE = 10.0

#: Seconds between the first two questions about one render that calls lead to which prove nothing by themselves.
#: Each further pause is twice as long, up to so many seconds: whoever knows an address cannot use up a quota.
BETWEEN_QUESTIONS = 15.0
LONGEST_BETWEEN_QUESTIONS = 600.0

#: While calls come in, they are answered first: work in a thread would slow every answer down, and services
#: have little patience. So many seconds without a call begin the work, and so many at the latest.
QUIET = 0.03
LATEST = 1.5

# A task without a reference may be collected.
_working: dict[tuple[CallbackClaims, CallbackPayload], asyncio.Task[None]] = {}
_of_one: Counter[CallbackClaims] = Counter()
_settings: dict[str, tuple[float, Settings | None]] = {}
_sleep = asyncio.sleep
_latest = 0.0
#: By submission: when the service may be asked again, and the pause after that.
_asked: dict[CallbackClaims, tuple[float, float]] = {}
_slots: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


@router.post(ROUTE, include_in_schema=False)
async def receive(token: str, request: Request) -> Response:
    """
    Take a callback: 202 if it is signed as it must be, 404 if not, 413 if it is longer than any can be.

    Nothing in the answer tells whether the task exists, or what was done.
    """
    global _latest
    _latest = time.monotonic()
    ticket = decode_unverified(token)
    now = time.time()
    settings = await _remembered(ticket.conn_id if ticket else None)
    # Before the body is read: only who has an address of ours makes this server keep anything.
    if not proves(token, settings.callback_secret if settings else None, now):
        return _answer(404)
    assert ticket is not None
    assert settings is not None
    body = await _body(request)
    if isinstance(body, int):
        return _answer(body)
    headers = {name.lower(): value for name, value in request.headers.items()}
    if settings.callback_signing and not verify_signature(settings.callback_signing, headers, body, now):
        log.warning(
            "A callback at a valid address for task %s was dropped: its signature (connection %r) is missing or wrong.",
            ticket.task_id,
            ticket.conn_id,
        )
        return _answer(404)
    hint = parse_payload(settings.api, body)
    if hint and not _begin(ticket, hint, settings):
        return _answer(503)
    return _answer(202)


def _answer(status: int) -> Response:
    return Response(status_code=status, headers={"Cache-Control": "no-store"})


async def _body(request: Request) -> bytes | int:
    """Return the body, or the answer to one that is too long, too slow or cut off; never keeps much of it."""
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            async for chunk in request.stream():
                received += chunk
                if len(received) > LONGEST_BODY:
                    return 413
    except TimeoutError:
        return 408
    except ClientDisconnect:
        return 400
    return bytes(received)


async def _remembered(conn_id: str | None) -> Settings | None:
    """Look a connection up, but not with every call: anybody can send any number of them."""
    if conn_id is None:
        return None
    known = _settings.get(conn_id)
    if known and known[0] > time.monotonic():
        return known[1]
    return await run_in_threadpool(_settings_of, conn_id)


def _settings_of(conn_id: str) -> Settings | None:
    try:
        connection = callback_delivery.look_up(conn_id)
        found = None if connection is None else read_settings(conn_id, connection)
    except SeedanceError as error:
        log.warning("A callback cannot be proved: %s", error.message)
        found = None
    except Exception as error:
        log.warning("A callback cannot be proved: connection %r: %s", conn_id, type(error).__name__)
        return None
    return _remember(conn_id, found)


def _remember(conn_id: str, found: Settings | None) -> Settings | None:
    """Remember what was found, and return what to go by."""
    if len(_settings) >= MOST_REMEMBERED:
        # Names that somebody made up must not drive out those of real connections.
        for name in [name for name, (_, kept) in list(_settings.items()) if kept is None]:
            _settings.pop(name, None)
    if len(_settings) >= MOST_REMEMBERED:
        _settings.clear()
    now = time.monotonic()
    until, known = _settings.get(conn_id, (0.0, None))
    if found is None and known is not None and now < until + TRUSTED:
        # Airflow tells a backend that fails from a connection that is gone by nothing. It is asked again next time.
        return known
    _settings[conn_id] = (now + (REMEMBERED if found else REMEMBERED_MISSING), found)
    return found


def _begin(ticket: CallbackClaims, hint: CallbackPayload, settings: Settings) -> bool:
    """Work on a callback in the background; ``False`` if there is too much to do already."""
    key = (ticket, hint)
    if key in _working:
        return True
    if _of_one[ticket] >= MOST_OF_ONE:
        return True  # another answer would tell that somebody waits
    if len(_working) >= MOST_WAITING:
        return False

    def done(_: asyncio.Task[None]) -> None:
        _working.pop(key, None)
        _of_one[ticket] -= 1
        if not _of_one[ticket]:
            del _of_one[ticket]

    _working[key] = task = asyncio.create_task(_pursue(ticket, hint, settings))
    _of_one[ticket] += 1
    task.add_done_callback(done)
    return True


async def _pursue(ticket: CallbackClaims, hint: CallbackPayload, settings: Settings) -> None:
    """Hand a callback over; one that came before the task has deferred is tried again for a while."""
    began = reached = time.monotonic()
    pause, trouble, failures = 1.0, FIRST_PAUSE, 0
    while True:
        try:
            outcome = await _hand_over(ticket, hint, settings, began)
        except Exception as error:
            # Whatever Airflow says to this: the service has its answer, and does not call again.
            failures += 1
            if failures >= TRIES and time.monotonic() > began + _patience(hint):
                _give_up(ticket, error)
                return
            await _sleep(trouble)
            trouble = min(2 * trouble, LONGEST_PAUSE)
            # A task that is on its way to its deferral is given the same time after the trouble as without it.
            reached = time.monotonic()
            continue
        if outcome.kind != "later" or time.monotonic() > reached + PATIENCE:
            log.debug("Callback for %s of %s: %s", ticket.task_id, ticket.run_id, outcome.kind)
            return
        await _sleep(
            max(outcome.seconds, pause) if outcome.seconds >= callback_delivery.SOON else outcome.seconds
        )
        pause *= GROWTH


def _patience(hint: CallbackPayload) -> float:
    return PATIENCE if hint.generation_id is None else PATIENCE_FOR_AN_ID


def _give_up(ticket: CallbackClaims, error: Exception) -> None:
    log.warning(
        "A callback could not be handed over to %s (%s: %s) and is given up. If the task polls for its render, it "
        "finds the end; if the reply to its submission was lost, on_uncertain_submit applies.",
        ticket.task_id,
        type(error).__name__,
        error,
    )


async def _hand_over(
    ticket: CallbackClaims, hint: CallbackPayload, settings: Settings, began: float
) -> callback_delivery.Outcome:
    slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    async with slots:
        while (wait := min(_latest + QUIET, began + LATEST) - time.monotonic()) > 0:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(wait)
        outcome = await run_in_threadpool(callback_delivery.deliver, ticket, hint)
    if outcome.kind not in ("ask", "finish"):
        return outcome
    if (wait := _until_asked_again(ticket)) > 0:
        return callback_delivery.Outcome(kind="later", seconds=wait)
    generation = await read_end(outcome.waits, settings)
    if generation is not None and not generation.status.terminal:
        return callback_delivery.Outcome(kind="ignored")
    if generation is None and outcome.kind == "ask":
        return callback_delivery.Outcome(kind="ignored")
    succeeded = generation and generation.status is GenerationStatus.SUCCEEDED and generation.urls
    async with slots:
        if generation and succeeded and callback_delivery.ends_from_trigger(outcome.waits):
            await run_in_threadpool(callback_delivery.finish, ticket, generation.result())
            return callback_delivery.Outcome(kind="resumed")
        event = make_event(generation) if generation and generation.status.terminal else None
        return await run_in_threadpool(callback_delivery.deliver, ticket, hint, on_worker=True, event=event)


def _until_asked_again(ticket: CallbackClaims) -> float:
    """Return the seconds until the service may be asked about a render again, and note that it is now."""
    now = time.monotonic()
    for asked in [asked for asked, (at, _) in _asked.items() if at + LONGEST_BETWEEN_QUESTIONS <= now]:
        del _asked[asked]
    until, pause = _asked.get(ticket, (now, BETWEEN_QUESTIONS))
    if until > now:
        return until - now
    _asked[ticket] = (now + pause, min(2 * pause, LONGEST_BETWEEN_QUESTIONS))
    return 0.0
