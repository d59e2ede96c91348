"""Flows driven by hand with scripted answers: requests that are repeated, and requests that are not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from helpers import ALL_APIS, NOW, calls, drive, fixture, pauses, prepare, reply, video

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpReply,
    NotAccepted,
    Refused,
    TransportFailure,
    Uncertain,
)
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.client import flows

ARK = get_api("ark")
V2 = get_api("seedanceapi-v2")

UNSENT = TransportFailure("could not connect", sent=False)
LOST = TransportFailure("no answer in time", sent=True)
TAKEN = reply(200, {"code": 200, "data": {"task_id": "t1"}})
BUSY = reply(503, {"code": "SERVICE_UNAVAILABLE", "message": "busy"})
MANY = reply(429)
ENDS = ("succeeded", "failed", "expired", "cancelled")


def now() -> datetime:
    return NOW


def ark_task(name: str) -> HttpReply:
    return reply(200, {**fixture(name), "id": "g1"})


not_accepted = pytest.mark.parametrize("first", [UNSENT, MANY, BUSY], ids=["unsent", "429", "503"])


def submit(*answers: HttpReply | TransportFailure, **options: Any) -> tuple[Any, list[Any]]:
    request = prepare("seedanceapi-v2", video()).request
    return drive(
        flows.submit_flow(V2, V2.submit_call(request), request, options.pop("now", now), **options), answers
    )


# ---------------------------------------------------------------------- submissions


def test_a_submission_that_is_taken_is_sent_once() -> None:
    outcome, steps = submit(TAKEN)
    assert isinstance(outcome, Accepted)
    assert len(calls(steps)) == 1
    assert flows.raise_outcome(outcome).generation_id == "t1"


@not_accepted
def test_a_submission_that_was_not_accepted_is_sent_again_for_a_few_seconds(first: Any) -> None:
    outcome, steps = submit(first, first, TAKEN)
    assert isinstance(outcome, Accepted)
    assert len(calls(steps)) == 3
    assert len({id(call.json) for call in calls(steps)}) == 1
    assert pauses(steps) == [1.0, 2.0]
    outcome, steps = submit(*[first] * 4)
    assert isinstance(outcome, NotAccepted)
    assert sum(pauses(steps)) <= 10
    outcome, steps = submit(first, retry_inline=False)
    assert isinstance(outcome, NotAccepted)
    assert len(steps) == 1


@pytest.mark.parametrize(
    "answer",
    [
        LOST, reply(200, b"<html>"), reply(200, {}), reply(302), reply(408), reply(409), reply(425),
        reply(500, {"code": "INTERNAL_ERROR", "message": "m"}), reply(502), reply(503, b"<html>"), reply(504),
        reply(520),
    ],
)  # fmt: skip
def test_after_anything_uncertain_nothing_is_sent(answer: Any) -> None:
    for before in ([], [UNSENT], [MANY, BUSY]):
        outcome, steps = submit(*before, answer)
        assert isinstance(outcome, Uncertain)
        assert len(calls(steps)) == len(before) + 1
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="may have been billed") as caught:
        flows.raise_outcome(outcome)
    assert caught.value.__cause__ is outcome.error
    assert caught.value.http_status == outcome.error.http_status
    assert not caught.value.retry_helps


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_a_refusal_is_not_repeated(status: int) -> None:
    outcome, steps = submit(reply(status))
    assert isinstance(outcome, Refused)
    assert len(steps) == 1
    with pytest.raises(type(outcome.error)) as caught:
        flows.raise_outcome(outcome)
    assert caught.value is outcome.error


@pytest.mark.parametrize("retry_inline", [True, False])
@not_accepted
def test_a_service_has_half_a_minute_before_another_is_tried(first: Any, retry_inline: bool) -> None:
    outcome, steps = submit(*[first] * 6, has_fallback=True, retry_inline=retry_inline)
    assert isinstance(outcome, NotAccepted)
    assert sum(pauses(steps)) == 30.0


def test_half_a_minute_includes_the_time_that_connecting_takes() -> None:
    clock = (NOW + timedelta(seconds=seconds) for seconds in itertools.count(step=10))
    outcome, steps = submit(UNSENT, UNSENT, has_fallback=True, now=lambda: next(clock))
    assert isinstance(outcome, NotAccepted)
    assert len(calls(steps)) == 2


@pytest.mark.parametrize(("named", "sent"), [("61", 1), ("60", 2)])
def test_a_minute_is_waited_for_before_another_is_tried(named: str, sent: int) -> None:
    _, steps = submit(*[reply(429, None, {"retry-after": named}), TAKEN][:sent], has_fallback=True)
    assert len(calls(steps)) == sent


def test_the_services_own_pause_is_kept_but_a_long_one_is_not_spent_on_a_worker() -> None:
    outcome, steps = submit(reply(429, None, {"retry-after": "7"}), TAKEN)
    assert isinstance(outcome, Accepted)
    assert pauses(steps) == [7.0]
    outcome, steps = submit(reply(429, None, {"retry-after": "1800"}))
    assert isinstance(outcome, NotAccepted)
    assert outcome.error.retry_after == 1800
    assert len(steps) == 1
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        flows.raise_outcome(outcome)
    assert caught.value.retry_after == 1800


# ---------------------------------------------------------------------- reads


def status(*answers: HttpReply | TransportFailure, once: bool = False) -> tuple[Any, list[Any]]:
    return drive(flows.status_flow(ARK, "g1", "video", now, once=once), answers)


@pytest.mark.parametrize(
    "trouble", [LOST, UNSENT, reply(500), reply(503), reply(200, b"<html>"), reply(200, {}), reply(302)]
)
def test_a_read_is_repeated_after_trouble(trouble: Any) -> None:
    generation, steps = status(trouble, trouble, ark_task("ark_task_running"))
    assert generation.status.value == "running"
    assert pauses(steps) == [0.5, 1.5]
    with pytest.raises(errors.SeedanceError) as caught:
        status(*[trouble] * 3)
    assert caught.value.generation_id == "g1"
    with pytest.raises(errors.SeedanceError):
        status(trouble, once=True)


@pytest.mark.parametrize(
    ("answer", "cls"),
    [
        (reply(429, None, {"retry-after": "60"}), errors.SeedanceRateLimitError),
        (reply(401), errors.SeedanceAuthenticationError),
        (reply(403), errors.SeedanceForbiddenError),
        (reply(404), errors.SeedanceNotFoundError),
        (reply(400), errors.SeedanceRequestError),
    ],
)
def test_a_read_is_not_repeated_where_that_cannot_help(answer: HttpReply, cls: type) -> None:
    with pytest.raises(cls) as caught:
        status(answer)
    assert "Correct the request" not in str(caught.value)  # advice about a submission


# ---------------------------------------------------------------------- looking up

SINCE = NOW - timedelta(minutes=5)
CORRELATION = "airflow-0123456789abcdef"


def task(number: int, correlation: str | None = None, created: datetime = NOW) -> dict[str, Any]:
    return {"id": f"cgt-{number}", "safety_identifier": correlation, "created_at": created.timestamp()}


def page(*tasks: dict[str, Any], total: int | None = None) -> HttpReply:
    return reply(200, {"items": list(tasks), **({} if total is None else {"total": total})})


def look_up(*answers: HttpReply | TransportFailure) -> tuple[Any, list[Any]]:
    return drive(flows.look_up_flow(ARK, CORRELATION, SINCE, now), answers)


def test_the_exact_match_is_adopted() -> None:
    found, steps = look_up(page(task(1), task(2, CORRELATION), total=2))
    assert found == "cgt-2"
    assert calls(steps)[0].query == (("page_num", "1"), ("page_size", "100"))


@pytest.mark.parametrize(
    "listed",
    [page(total=0), page()]
    + [
        page(task(1, other), total=1)
        for other in (CORRELATION + "0", CORRELATION[:-1], CORRELATION.upper(), "", None)
    ],
)
def test_nothing_less_than_the_exact_match_is_adopted(listed: HttpReply) -> None:
    found, steps = look_up(*[listed] * 6)
    assert found is None
    assert pauses(steps) == [1.2, 1.0, 1.2, 3.0, 1.2]
    tiers = [dict(call.query).get("filter.service_tier") for call in calls(steps)]
    assert tiers == [None, "flex"] * 3
    # The service may list it a little later.
    assert look_up(listed, listed, page(task(1, CORRELATION), total=1))[0] == "cgt-1"


@pytest.mark.parametrize("total", [250, None])
def test_the_match_is_found_on_a_later_page(total: int | None) -> None:
    pages = [page(*[task(100 * number + n) for n in range(100)], total=total) for number in range(2)]
    found, steps = look_up(*pages, page(task(900, CORRELATION), total=total))
    assert found == "cgt-900"
    assert [dict(call.query)["page_num"] for call in calls(steps)] == ["1", "2", "3"]
    assert pauses(steps) == [1.2, 1.2]


def test_a_refused_page_is_read_again_after_a_pause() -> None:
    refused = reply(429, {"error": {"code": "AccountRateLimitExceeded", "message": "too many"}})
    found, steps = look_up(refused, refused, page(task(1, CORRELATION), total=1))
    assert found == "cgt-1"
    assert pauses(steps) == [2.0, 4.0]


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", errors.SeedanceForbiddenError),
        (400, "MissingParameter", errors.SeedanceRequestError),
    ],
)
def test_a_key_of_some_models_is_looked_up_and_verified_by_the_model(
    status: int, code: str, error: type[errors.SeedanceError]
) -> None:
    denied = reply(status, {"error": {"code": code, "message": "filter.model is required"}})
    flow = flows.look_up_flow(ARK, CORRELATION, SINCE, now, "ep-1")
    found, steps = drive(flow, [denied, page(total=0), page(task(1, CORRELATION), total=1)])
    assert found == "cgt-1"
    assert [dict(call.query).get("filter.model") for call in calls(steps)] == [None, "ep-1", "ep-1"]
    _, steps = drive(flows.probe_flow(ARK, now, "ep-1"), [denied, page(total=0)])
    assert [dict(call.query).get("filter.model") for call in calls(steps)] == [None, "ep-1"]
    with pytest.raises(error):
        drive(flows.probe_flow(ARK, now), [denied])


def test_pages_from_before_the_submission_are_not_read() -> None:
    old = page(*[task(n, created=SINCE - timedelta(hours=2, minutes=n)) for n in range(100)], total=5000)
    found, steps = look_up(*[old] * 6)
    assert found is None
    assert len(calls(steps)) == 6


@pytest.mark.parametrize(
    "minutes",
    [range(100, 0, -1), [0] * 100, [*range(99), 5], [0]],
    ids=["oldest first", "all at once", "not quite in order", "a single one"],
)
def test_age_ends_the_look_up_only_in_a_list_that_was_seen_to_be_newest_first(minutes: Iterable[int]) -> None:
    old = [task(n, created=SINCE - timedelta(hours=9, minutes=ago)) for n, ago in enumerate(minutes)]
    found, steps = look_up(page(*old, total=500), page(task(900, CORRELATION), total=500))
    assert found == "cgt-900"
    assert [dict(call.query)["page_num"] for call in calls(steps)] == ["1", "2"]


def test_a_list_that_is_not_seen_to_its_end_is_not_one_without_the_match() -> None:
    old = page(*[task(n, created=SINCE - timedelta(hours=9 - n)) for n in range(5)], total=5000)
    message = r"lists more than 1000 tasks.* not be read to its end"
    with pytest.raises(errors.SeedanceServerError, match=message):
        look_up(*[old] * 600)


def test_a_busy_account_is_searched_back_to_the_submission() -> None:
    """Thousands of others may have been submitted since."""
    busy = [page(*[task(n, created=SINCE + timedelta(hours=1, seconds=-n))] * 100) for n in range(40)]
    found, steps = look_up(*busy, page(task(900, CORRELATION)))
    assert found == "cgt-900"
    assert len(calls(steps)) == 41


def test_not_being_able_to_look_proves_nothing() -> None:
    assert look_up(LOST, reply(500), reply(404))[0] is None
    assert look_up(LOST, page(task(1, CORRELATION), total=1))[0] == "cgt-1"
    with pytest.raises(errors.SeedanceRateLimitError):
        look_up(*[MANY] * 12)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (LOST, errors.SeedanceConnectionError),
        (reply(500), errors.SeedanceServerError),
        (reply(401), errors.SeedanceAuthenticationError),
        (reply(402), errors.SeedanceInsufficientCreditsError),
        (reply(403), errors.SeedanceForbiddenError),
    ],
)
def test_a_look_up_without_an_answer_can_be_repeated_later(
    last: Any, kind: type[errors.SeedanceError]
) -> None:
    with pytest.raises(kind):
        look_up(page(total=0), reply(404), reply(404), last)


@pytest.mark.parametrize(
    "body", [{}, {"items": None}, {"items": [5, None, "x"]}, {"items": {"id": "x"}}, b"<html>", []]
)
def test_a_reply_without_a_list_is_not_a_list_without_the_match(body: Any) -> None:
    with pytest.raises(errors.SeedanceServerError):
        look_up(*[reply(200, body)] * 3)


def test_an_empty_page_before_the_total_is_not_the_end_of_the_list() -> None:
    first = page(*[task(n) for n in range(100)], total=250)
    with pytest.raises(errors.SeedanceServerError, match="100 of 250"):
        look_up(*[first, page(total=250)] * 3)
    with pytest.raises(errors.SeedanceServerError, match="0 of 1"):
        look_up(*[page(total=1)] * 3)


# ---------------------------------------------------------------------- cancelling


def cancel(*answers: HttpReply | TransportFailure) -> tuple[flows.Cancellation, list[Any]]:
    return drive(flows.cancel_flow(ARK, "g1", "video", now), answers)


def test_a_queued_generation_is_read_first_and_then_deleted() -> None:
    result, steps = cancel(ark_task("ark_task_queued"), reply(200, {}))
    assert result.cancelled
    assert [call.method for call in calls(steps)] == ["GET", "DELETE"]
    assert "not billed" in result.reason


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ark_task("ark_task_running"), "goes on"),
        *((ark_task(f"ark_task_{word}"), "already ended") for word in ENDS),
        # Without knowing the state.
        (LOST, "billed"),
        *((reply(status), "billed") for status in (500, 404, 429)),
        (reply(200, b"<html>"), "billed"),
        *((reply(200, body), "billed") for body in ({}, {"id": "g1"})),
        *((reply(200, {"id": "g1", "status": status}), "billed") for status in (None, "odd")),
    ],
)
def test_nothing_else_is_deleted(answer: Any, says: str) -> None:
    result, steps = cancel(answer)
    assert not result.cancelled
    assert says in result.reason
    assert [call.method for call in calls(steps)] == ["GET"]


@pytest.mark.parametrize(
    "answer", [LOST, UNSENT, reply(409), reply(500), reply(400, fixture("ark_error_400"))]
)
def test_a_failed_deletion_does_not_count_as_cancelled(answer: Any) -> None:
    result, _ = cancel(ark_task("ark_task_queued"), answer)
    assert not result.cancelled


@pytest.mark.parametrize(
    ("name", "known", "word"),
    [("ark", "g1", "queued"), ("fal", "fal-ai/seedance:g1", "IN_QUEUE"), ("replicate", "g1", "starting")],
)
@pytest.mark.parametrize("code", [400, 401])
def test_a_refused_cancellation_says_only_that_the_render_is_billed(
    name: str, known: str, word: str, code: int
) -> None:
    refused = reply(code, {"error": {"code": "x", "message": "no"}, "detail": "no"})
    flow = flows.cancel_flow(get_api(name), known, "video", now)
    result, steps = drive(flow, [reply(200, {"id": "g1", "status": word}), refused])
    assert len(calls(steps)) == 2
    assert result.reason.endswith(f"): generation {known} goes on at {name} and is billed")
    assert not re.search("Nothing was billed|Correct the request", result.reason)


@pytest.mark.parametrize("name", ALL_APIS)
def test_no_request_is_sent_for_what_a_service_cannot_do(name: str) -> None:
    api = get_api(name)
    if not api.can_cancel:
        result, steps = drive(flows.cancel_flow(api, "g1", "video", now), [])
        assert (result.cancelled, steps) == (False, [])
        assert "goes on" in result.reason
        assert "billed" in result.reason
    if not api.can_look_up:
        assert not api.correlates(video())
        found, steps = drive(flows.look_up_flow(api, CORRELATION, SINCE, now), [])
        assert (found, calls(steps)) == (None, [])
    with pytest.raises(errors.SeedanceNotFoundError, match="synchronous"):
        drive(flows.status_flow(api, "local-abc", "image", now), [])


# ---------------------------------------------------------------------- testing the connection


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("seedance2api", reply(404, {"status": "error", "error": {"code": "NOT_FOUND", "message": "m"}})),
        ("seedanceapi-v1", reply(404, {"code": "TASK_NOT_FOUND", "message": "m"})),
        ("seedanceapi-v2", reply(200, {"code": 404, "message": "m"})),
        ("runbase", reply(404, {"error": "run not found"})),
        ("runbase", reply(400, {"error": "bad id"})),
        ("ark", reply(200, fixture("ark_list"))),
        ("ark", reply(200, {"total": 0, "items": []})),
    ],
)
def test_a_key_that_works(name: str, answer: HttpReply) -> None:
    message, _ = drive(flows.probe_flow(get_api(name), now), [answer])
    assert "accepts the API key" in message


@pytest.mark.parametrize(
    ("answer", "cls"),
    [
        (reply(401), errors.SeedanceAuthenticationError),
        (reply(403), errors.SeedanceForbiddenError),
        (reply(429), errors.SeedanceRateLimitError),
        (reply(500), errors.SeedanceServerError),
        (reply(301), errors.SeedanceServerError),
        (reply(200, b"<html>a login page</html>"), errors.SeedanceServerError),
        (reply(404, b"<html>nginx</html>"), errors.SeedanceNotFoundError),
        (UNSENT, errors.SeedanceConnectionError),
    ],
)
def test_anything_else_does_not_show_that_the_key_works(answer: Any, cls: type) -> None:
    for api in map(get_api, ALL_APIS):
        assert api.probe_call().method == "GET"
        with pytest.raises(cls):
            drive(flows.probe_flow(api, now), [answer])


def test_a_list_that_does_not_exist_is_a_wrong_address() -> None:
    missing = reply(404, {"error": {"code": "NotFound", "message": "no such page"}})
    with pytest.raises(errors.SeedanceNotFoundError):
        drive(flows.probe_flow(ARK, now), [missing])
