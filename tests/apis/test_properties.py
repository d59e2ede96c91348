"""Any reply of a service, however damaged, is read as one of the documented outcomes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers import ALL_APIS, NOW, image, prepare, video
from hostile import targets
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpReply,
    NotAccepted,
    Refused,
    Uncertain,
)
from airflow_provider_seedance.apis.rate_limits import read_rate_limit
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.exceptions import SeedanceError
from airflow_provider_seedance.generations import Generation, GenerationStatus, read_time

WORDS = st.sampled_from(
    [
        *("success", "accepted", "error", "queued", "processing", "completed", "failed", "succeeded"),
        *("SUCCESS", "FAILED"),
    ]
)
FIELDS = st.sampled_from(
    [
        *("status", "data", "task_id", "id", "run_id", "code", "message", "error", "error_message", "result"),
        *("video_url", "images", "url", "response", "output", "urls", "content", "created_at", "updated_at"),
        *("created", "duration", "resolution", "model", "request", "consumed_credits", "items", "total"),
        *("b64_json", "output_format", "size", "progress", "costUsd", "detail"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | WORDS
    | st.sampled_from(["2024-01-15T10:30:00Z", "9999-12-31T23:59:59Z", 253402300799, 1e308, "1e999", 10**400])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=6)
    ),
)
OBJECTS = st.dictionaries(FIELDS, JSON, max_size=8)
BODIES = (
    st.binary(max_size=60)
    | OBJECTS.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
)
STATUSES = st.integers(100, 600) | st.sampled_from([200, 201, 400, 401, 404, 429, 500, 503])
QUOTA_HEADERS = [f"x-ratelimit-{name}" for name in ("limit", "remaining", "reset", "retryafter")]
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", *QUOTA_HEADERS]),
    st.text(max_size=12)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.just("Sat, 07 Feb 2026 10:41:00 GMT"),
)
NAMES = st.sampled_from(ALL_APIS)

PREPARED = {
    (name, request.media): prepare(name, request).request
    for name in ALL_APIS
    for request in (video(), image())
    if request.media == "video" or get_api(name).image_rules
}


@given(key=st.sampled_from(sorted(PREPARED)), status=STATUSES, headers=HEADERS, body=BODIES)
def test_every_answer_to_a_submission_is_one_of_four(
    key: tuple[str, str], status: int, headers: dict[str, str], body: bytes
) -> None:
    api, request = get_api(key[0]), PREPARED[key]
    outcome = api.read_submit(HttpReply(status, headers, body), api.submit_call(request), request, NOW)
    if isinstance(outcome, Accepted):
        assert 200 <= status < 300
        assert outcome.generation.generation_id
        json.dumps(outcome.generation.result())
        return
    assert isinstance(outcome, (NotAccepted, Refused, Uncertain))
    assert isinstance(outcome.error, SeedanceError)
    assert outcome.error.message
    if isinstance(outcome, NotAccepted):
        assert status in (429, 503)
        assert outcome.error.retry_after is None or outcome.error.retry_after >= 0
    if isinstance(outcome, Refused):
        assert 200 <= status < 300 or 400 <= status < 500


@given(which=st.integers(0, 255), body=OBJECTS)
def test_any_object_reads_as_a_generation_and_as_an_error_or_none(which: int, body: dict[str, Any]) -> None:
    targets.callback_body(bytes([which, 0]) + json.dumps(body).encode())


@given(
    which=st.integers(0, 255),
    answers=st.lists(st.tuples(st.binary(min_size=1, max_size=1), BODIES), min_size=2, max_size=2),
)
def test_a_status_read_ends_in_a_generation_or_in_one_of_our_errors(
    which: int, answers: list[tuple[bytes, bytes]]
) -> None:
    targets.status_reply(
        bytes([which, 0]) + targets.SEPARATOR.join(status + body for status, body in answers)
    )


@given(headers=HEADERS)
def test_any_headers_read_as_a_quota(headers: dict[str, str]) -> None:
    limit = read_rate_limit(headers, NOW)
    for number in (limit.limit, limit.remaining, limit.retry_after):
        assert number is None or number >= 0
    assert limit.reset_at is None or limit.reset_at.tzinfo is not None


TIMES = st.none() | st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1), timezones=st.just(UTC)
)
NUMBERS = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9, allow_nan=False)


@given(
    generation=st.builds(
        Generation,
        generation_id=st.text(min_size=1),
        api=NAMES,
        media=st.sampled_from(["video", "image"]),
        status=st.sampled_from(list(GenerationStatus)),
        model=st.none() | st.text(),
        urls=st.lists(st.text(min_size=1), max_size=3).map(tuple),
        duration=NUMBERS,
        resolution=st.none() | st.text(),
        credits=NUMBERS,
        cost_usd=NUMBERS,
        created_at=TIMES,
        completed_at=TIMES,
        expires_at=TIMES,
    )
)
def test_a_result_survives_json_and_is_read_back_as_it_was(generation: Generation) -> None:
    result = json.loads(json.dumps(generation.result()))
    again = Generation.from_result(result)
    assert again.result() == result
    assert again == generation


@given(value=JSON)
def test_any_value_is_a_moment_in_utc_or_none(value: Any) -> None:
    moment = read_time(value)
    assert moment is None or moment.utcoffset() == timedelta(0)
