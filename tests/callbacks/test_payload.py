"""Parsing of callback bodies: documented ones, likely ones, and rubbish."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import ALL_APIS
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.callbacks.payload import MAX_ID_CHARS, CallbackPayload, parse_payload
from airflow_provider_seedance.generations import GenerationStatus

S = GenerationStatus

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "task_id", "data", "status", "result", "error", "code", "response"]), inner
        )
    ),
    max_leaves=12,
)


def read(api: str, body: Any) -> CallbackPayload:
    return parse_payload(get_api(api), body if isinstance(body, bytes) else json.dumps(body).encode())


def of(status: str, **more: Any) -> dict[str, Any]:
    return {"task_id": "g1", "status": status, **more}


COMPLETED = {"event": "task.completed", "timestamp": "2024-01-15T10:35:00Z"}


@pytest.mark.parametrize(
    ("api", "body", "status"),
    [
        # As documented
        (
            "seedance2api",
            {**COMPLETED, "data": of("completed", result={"video_url": "https://c/1"})},
            S.SUCCEEDED,
        ),
        ("seedance2api", {"event": "task.failed", "data": of("failed")}, S.FAILED),
        ("seedance2api", of("processing", progress=40), S.RUNNING),
        ("seedanceapi-v1", {"code": 200, "data": of("SUCCESS")}, S.SUCCEEDED),
        ("seedanceapi-v1", {"code": 200, "data": of("FAILED")}, S.FAILED),
        ("seedanceapi-v2", {"data": of("IN_PROGRESS")}, S.RUNNING),
        ("seedanceapi-v2", of("SUCCESS"), S.SUCCEEDED),
        ("ark", {"id": "g1", "status": "succeeded", "content": {"video_url": "https://c/1"}}, S.SUCCEEDED),
        *(("ark", {"id": "g1", "status": str(status)}, status) for status in (S.QUEUED, S.EXPIRED)),
    ],
)
def test_bodies_of_services(api: str, body: Any, status: S) -> None:
    assert read(api, body) == CallbackPayload(generation_id="g1", status=status)


@pytest.mark.parametrize("api", ALL_APIS)
def test_rubbish_is_an_empty_payload(api: str) -> None:
    rubbish = [b"", b"null", b"[]", b"1", b'"completed"', b"{}", b"\xff\xfe", b"{", b"\x00"]
    for body in (*rubbish, b"[" * 100_000, b"9" * 5000):
        payload = read(api, body)
        assert payload == CallbackPayload()
        assert not payload


@pytest.mark.parametrize("api", ALL_APIS)
def test_an_unknown_status_and_that_of_an_envelope_are_not_terminal(api: str) -> None:
    assert not read(api, of("almost there", id="g1")).ended
    for word in get_api(api).envelope_words:
        assert not read(api, {"status": word, "message": "received"}).ended


def test_a_too_long_id_is_ignored() -> None:
    body = {"id": "x" * (MAX_ID_CHARS + 1), "status": "succeeded"}
    assert read("ark", body).generation_id is None


@given(body=json_values | st.binary())
def test_any_body_is_parsed(body: Any) -> None:
    for api in ALL_APIS:
        read(api, body)
