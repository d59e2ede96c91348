"""Events of triggers: readable by any worker, free of URLs in logs, and never trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.triggers.base import DiscrimatedTriggerEvent, TriggerEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.polling.wait_many import WaitResult
from airflow_provider_seedance.triggers.events import (
    GenerationEvent,
    make_batch_event,
    make_event,
    read_batch_event,
    read_event,
)

URL = "https://cdn.example/out.mp4?X-Signature=topsecret"


def generation(status: str = "succeeded", **known: Any) -> Generation:
    known = {"urls": (URL,) if status == "succeeded" else (), **known}
    return Generation(generation_id="g-1", api="ark", media="video", status=GenerationStatus(status), **known)


EVENT = make_event(generation())
RESULT = generation().result()


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_an_event_shows_no_url(show: Callable[[Any], str]) -> None:
    assert show(GenerationEvent(EVENT)) == "GenerationEvent<g-1 ended>"
    assert "topsecret" not in show(GenerationEvent({"generation_id": 5, "result": URL}))
    assert "topsecret" not in show(GenerationEvent(URL))


def test_an_event_passes_through_airflow() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(DiscrimatedTriggerEvent)
    carried = adapter.validate_json(adapter.dump_json(GenerationEvent(EVENT)))
    assert isinstance(carried, TriggerEvent)
    assert read_event(carried.payload, "g-1") is not None


@pytest.mark.parametrize(
    "ended",
    [
        generation(credits=2.5, duration=5, model="m", completed_at=datetime(2026, 2, 7, tzinfo=UTC)),
        generation(urls=()),
        generation("failed", error_message="no", error_code="X"),
        *(generation(status) for status in ("cancelled", "expired")),
    ],
)
def test_an_event_of_an_ended_generation_is_read_as_written(ended: Generation) -> None:
    assert read_event(json.loads(json.dumps(make_event(ended))), "g-1") == ended


@pytest.mark.parametrize(
    "event",
    [
        *(make_event(generation(status)) for status in ("running", "queued")),
        {**make_event(generation(urls=())), "outcome": "ended"},
        *({**EVENT, "outcome": outcome} for outcome in ("no_output", "callback")),
        {**EVENT, "generation_id": "g-2"},
        {**EVENT, "result": None},
        {**EVENT, "result": {**RESULT, "generation_id": "g-2"}},
        {**EVENT, "result": {**RESULT, "status": "unheard-of"}},
        {**EVENT, "result": {**RESULT, "urls": "text"}},
    ],
)
def test_an_event_without_a_complete_result_is_not_used(event: Any) -> None:
    assert read_event(event, "g-1") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_read_without_an_error(event: Any) -> None:
    assert read_event(event, "g-1") is None


@given(
    st.dictionaries(st.sampled_from(sorted(EVENT)), json_values, max_size=3),
    st.dictionaries(st.sampled_from(sorted(RESULT)), json_values, max_size=3),
)
def test_a_damaged_event_is_not_used_or_complete(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    read = read_event({**EVENT, "result": {**RESULT, **inner}, **outer}, "g-1")
    if read is not None:
        assert read.generation_id == "g-1"
        assert read.status.terminal
        empty = read.status is GenerationStatus.SUCCEEDED and not read.urls
        assert not empty or outer.get("outcome") == "no_output"
        json.dumps(read.result())


def test_an_event_of_a_batch_names_the_connection_of_each_generation() -> None:
    result = WaitResult(
        ended=[("b", generation()), ("a", generation())], unknown=[("a", "g-2")], overdue=[("b", "g-2")]
    )
    event = json.loads(json.dumps(make_batch_event(result, 4)))
    found = read_batch_event(event)
    assert [(conn_id, one.generation_id) for conn_id, one in found.ended] == [("b", "g-1"), ("a", "g-1")]
    assert (found.unknown, found.overdue) == (result.unknown, result.overdue)


def test_an_event_of_an_earlier_release_names_no_connection() -> None:
    event = {"outcome": "many", "ended": [EVENT], "unknown": ["g-2", 5, ["a"]], "overdue": [["a", None]]}
    found = read_batch_event(event)
    assert [(conn_id, one.generation_id) for conn_id, one in found.ended] == [(None, "g-1")]
    assert (found.unknown, found.overdue) == ([(None, "g-2")], [])
