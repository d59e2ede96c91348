"""Fingerprints, records as JSON, and their changes."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from helpers import NOW, image, prepare, video
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import (
    Generation,
    GenerationRequest,
    GenerationStatus,
    VideoRequest,
)
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.records import Attempt, Failure, Fingerprint, Record, RecordState

BASE = "https://seedanceapi.org/v2"


def fingerprint(request: GenerationRequest, *, api: str = "ark", base_url: str = BASE) -> Fingerprint:
    return Fingerprint.of(request, api=api, base_url=base_url)


#: A record as it is stored. Other tries read it, perhaps by another release: its form is fixed.
FULL: dict[str, Any] = {
    "version": 1,
    "state": "ended",
    "fingerprint": {
        "api": "ark",
        "base_url": BASE,
        "media": "video",
        "arguments": dict(fingerprint(video(duration=5)).arguments),
        "signatures": "",
    },
    "max_tries": 3,
    "try_number": 2,
    "ti_id": "019b-2",
    "conn_id": "seedance_default",
    "passed_over": {"primary": "SeedanceForbiddenError"},
    "end_from_trigger": True,
    "generation_id": "g-1",
    "correlation": "airflow-0f",
    "resubmitted": True,
    "callback_nonce": "n-1",
    "result_defaults": {"model": "m", "duration": 5, "credits": 2.5},
    "result": {"generation_id": "g-1", "urls": ["https://cdn.example/x.png"]},
    "status": "succeeded",
    "failure": {"kind": "failed", "error": "GPU on fire", "final": True},
    "reported_credits": 2.5,
    "reported_cost_usd": 0.0125,
    "earlier_credits": 5.0,
    "earlier_cost_usd": 0.025,
    "earlier_ids": ["g-0", "an unknown id"],
    "intended_at": "2026-02-07T10:40:00Z",
    "submitted_at": "2026-02-07T10:41:00Z",
    "ended_at": "2026-02-07T10:42:00Z",
    "render_again_until": None,
}


def full() -> Record:
    return Record.from_value(FULL)


# ---------------------------------------------------------------------- fingerprint


A, B = "https://b.example/a.png", "https://b.example/b.png"


def linked(*images: Any) -> VideoRequest:
    return video(images=list(images))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (linked(f"{A}?X-Amz-Signature=1&Expires=5"), video(images=f"{A}?X-Amz-Signature=2&Expires=9#top")),
        (linked("https://user:pw@b.example/a.png"), linked(A)),
        (linked("HTTPS://B.example/a.png"), linked("https://b.EXAMPLE/a.png")),
        (
            video(extra_params={"a": 1, "b": {"c": 2, "d": 3}}),
            video(extra_params={"b": {"d": 3, "c": 2}, "a": 1}),
        ),
        (video(extra_params={"draft": f"{A}?sig=1"}), video(extra_params={"draft": f"{A}?sig=2"})),
        *(
            (video(extra_params={"a": 1}), video(extra_params={"a": 1, name: "https://a/1"}))
            for name in ("callback_url", "webhook_url")
        ),
        (video(duration="5"), video(duration=5)),
        (video(generate_audio="true"), video(generate_audio=True)),
        (linked(), video()),
        (video(model="None"), video(model=None)),
    ],
)
def test_the_same_request(one: GenerationRequest, other: GenerationRequest) -> None:
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one).differences(fingerprint(other)) == []


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        (video("A lamp"), video("A lamp."), ["prompt"]),
        (video("A lamp"), video("A lamp "), ["prompt"]),
        # A prompt is not a link: what follows a question mark counts.
        (video("https://b.example/a?x=1"), video("https://b.example/a?x=2"), ["prompt"]),
        (video(duration=5), video(duration=10), ["duration"]),
        (video(duration=5), video(), ["duration"]),
        (video(seed=1, model="a"), video(seed=2, model="b"), ["model", "seed"]),
        (linked(A), linked(B), ["images"]),
        (linked(A, B), linked(B, A), ["images"]),
        (linked({"url": A, "role": "first_frame"}), linked({"url": A, "role": "last_frame"}), ["images"]),
        (video(extra_params={"a": 1}), video(extra_params={"a": 2}), ["extra_params"]),
        # The file may be named in the query.
        (linked("https://b.example/uc?id=A"), linked("https://b.example/uc?id=B"), ["images"]),
        (linked("https://b.example/uc?id=A&id=B"), linked("https://b.example/uc?id=B&id=A"), ["images"]),
        (linked("data:image/png;base64,AA?x"), linked("data:image/png;base64,AA?y"), ["images"]),
        (video(), image(), ["media"]),
    ],
)
def test_another_request(one: GenerationRequest, other: GenerationRequest, named: list[str]) -> None:
    assert fingerprint(one).differences(fingerprint(other)) == named
    assert fingerprint(other).differences(fingerprint(one)) == named


def test_links_that_differ_in_their_signature_are_noticed() -> None:
    signed = [fingerprint(linked(f"{A}?token={token}")) for token in "112"]
    assert signed[0] == signed[2]
    assert signed[0].signatures == signed[1].signatures != signed[2].signatures
    assert rec.count_signed_twins(signed) == 1
    assert rec.count_signed_twins([fingerprint(video(prompt)) for prompt in "aba"]) == 0


def test_another_service() -> None:
    one = fingerprint(video())
    assert one.differences(fingerprint(video(), api="runbase")) == ["api"]
    assert one.differences(fingerprint(video(), base_url="https://x.example")) == ["base_url"]


def test_defaults_of_the_connection_count_and_those_of_the_service_do_not() -> None:
    prepared = prepare("seedance2api", video())
    assert prepared.request.duration == 5
    assert fingerprint(prepared.as_requested) == fingerprint(video()) != fingerprint(prepared.request)
    prepared = prepare("seedance2api", video(), model="seedance-2.0")
    assert fingerprint(prepared.as_requested).differences(fingerprint(video())) == ["model"]


def test_it_holds_digests_only() -> None:
    shown = repr(fingerprint(video("a secret prompt", images=["https://user:pw@b.example/a.png?sig=42x"])))
    for secret in ("secret", "pw", "42x", "b.example"):
        assert secret not in shown
    assert fingerprint(video("\ud800")) == fingerprint(video("\ud800"))  # a lone surrogate


@given(st.text(), st.text())
def test_prompts_are_compared_exactly(one: str, other: str) -> None:
    assert (fingerprint(video(one)) == fingerprint(video(other))) == (one == other)


def test_a_render_in_flight_is_known_again_after_an_upgrade() -> None:
    """The digests are compared with those that another release wrote: what they are made of is fixed."""
    request = video(
        "Zwei Füchse, „leise“",
        model="m-1",
        duration=5,
        images=[{"url": "https://b.example/a.png?sig=1", "role": "first_frame"}, "https://b.example/c.png"],
        generate_audio=True,
        extra_params={
            "b": [1, 2.5, None],
            "a": {"x": "https://b.example/d.png?sig=2"},
            "day": date(2026, 2, 7),
            "callback_url": "https://x.example",
        },
    )
    assert fingerprint(request).arguments == {
        "prompt": "b820a00eccf8ab7f7dbc46d475acaef5",
        "model": "72ce11bb99bf49e73d7552e6e04d2e92",
        "duration": "ef2d127de37b942baad06145e54b0c61",
        "images": "3b79cb2230614c4bd87cc5ff7daf9063",
        "generate_audio": "b5bea41b6c623f7c09f1bf24dcae58eb",
        "extra_params": "147ff54261daf2d0b0e3282ba9e32932",
    }


# ---------------------------------------------------------------------- record


@pytest.mark.parametrize("state", list(RecordState))
def test_a_record_of_each_state_is_read_as_written(state: RecordState) -> None:
    known = state in (RecordState.SUBMITTED, RecordState.ENDED)
    for record in (full(), Record(fingerprint=fingerprint(video()), state=state, max_tries=0, try_number=1)):
        record = replace(record, state=state, generation_id="g" if known else None)
        assert Record.from_value(json.loads(json.dumps(record.as_dict()))) == record


def test_the_form_of_a_record_is_fixed() -> None:
    assert full().as_dict() == FULL
    assert (full().state, full().status) == (RecordState.ENDED, GenerationStatus.SUCCEEDED)
    assert full().fingerprint == fingerprint(video(duration=5))
    assert full().failure == Failure(kind="failed", error="GPU on fire", final=True)
    assert (full().submitted_at, full().ended_at) == (NOW + timedelta(minutes=1), NOW + timedelta(minutes=2))


def test_fields_of_other_releases_of_the_same_version_may_be_there_or_missing() -> None:
    assert Record.from_value({**FULL, "colour": "blue"}) == full()
    needed = ("version", "state", "fingerprint", "max_tries", "try_number", "generation_id")
    bare = Record.from_value({name: FULL[name] for name in needed})
    assert {name: bare.as_dict()[name] for name in needed} == {name: FULL[name] for name in needed}
    assert (bare.conn_id, bare.status, bare.failure, bare.intended_at) == (None, None, None, None)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_another_version_is_not_understood(version: Any) -> None:
    with pytest.raises(errors.SeedanceRecordError) as caught:
        Record.from_value({**FULL, "version": version})
    assert caught.value.message == (
        f"A record of a submission has version {version!r}, this release reads version 1. Nothing was submitted. Run the "
        "task with the release that wrote it."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"state": "lunch"}, {"state": None}, {"fingerprint": None}, {"fingerprint": {"api": "ark"}},
        {"fingerprint": {"api": "ark", "base_url": "x", "media": "video", "arguments": 5}},
        {"max_tries": "many"}, {"max_tries": None}, {"status": "lunch"}, {"result_defaults": 5},
        {"result_defaults": ["model"]}, {"generation_id": None}, {"generation_id": ""}, {"generation_id": 5},
        {"generation_id": {"id": "g"}}, {"correlation": 5}, {"callback_nonce": 5}, {"result": "text"},
        {"result": [1]}, {"failure": ["failed"]}, {"failure": {"kind": "failed"}},
        {"fingerprint": {"api": 1, "base_url": "x", "media": "video", "arguments": {}}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_damaged_record_is_not_an_empty_one(change: dict[str, Any]) -> None:
    with pytest.raises(errors.SeedanceRecordError) as caught:
        Record.from_value({**FULL, **change})
    nameless = change in ({"generation_id": None}, {"generation_id": ""})
    assert caught.value.message == (
        "A record says submitted but names no generation. Nothing was submitted."
        if nameless
        else "A record of a submission was damaged, or written by something else. Nothing was submitted."
    )
    assert not caught.value.retry_helps
    assert change != {"correlation": 5} or "correlation" in str(caught.value.__cause__)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_is_a_record_or_an_error(value: Any) -> None:
    with pytest.raises(errors.SeedanceRecordError):
        Record.from_value(value)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), json_values, max_size=4))
def test_any_damage_is_a_record_or_an_error(damage: dict[str, Any]) -> None:
    try:
        record = Record.from_value({**FULL, **damage})
    except errors.SeedanceRecordError:
        return
    # What was read can be written, and is read the same.
    assert Record.from_value(json.loads(json.dumps(record.as_dict()))) == record
    assert record.generation_id is None or isinstance(record.generation_id, str)


def test_a_record_is_small() -> None:
    """The store warns above 64 KiB."""
    request = video(
        "x" * 2000,
        images=[f"https://b.example/{'y' * 500}/{number}.png?{'z' * 2000}" for number in range(9)],
        extra_params={"more": "w" * 10000},
    )
    record = replace(full(), fingerprint=fingerprint(request))
    assert len(json.dumps(record.as_dict())) < 4096


# ---------------------------------------------------------------------- from state to state

ATTEMPT = Attempt(fingerprint=fingerprint(video()), max_tries=2, try_number=1)


def intent(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "conn_id": "c",
        "passed_over": {},
        "correlates": False,
        "end_from_trigger": False,
    }
    return rec.intent_record(ATTEMPT, NOW, **{**values, "result_defaults": {"model": "m"}, **changes})


def generation(status: str = "queued", **known: Any) -> Generation:
    return Generation(generation_id="g-9", api="ark", media="video", status=GenerationStatus(status), **known)


def test_an_intent_counts_what_it_replaces() -> None:
    first = intent(result_defaults={"credits": 14})
    assert (first.committed("credits"), first.submitted_ids) == (14, ("an unknown id",))
    rejected = intent(previous=replace(first, state=RecordState.NOT_SUBMITTED))
    assert (rejected.committed("credits"), rejected.submitted_ids) == (0, ("an unknown id",))
    ended = rec.as_ended(rec.with_id(first, "g-1"), generation("failed", credits=2.5), NOW)
    second = intent(result_defaults={"credits": 14}, previous=ended)
    assert (second.committed("credits"), second.submitted_ids) == (16.5, ("g-1", "an unknown id"))
    assert (second.earlier_credits, second.earlier_ids) == (2.5, ("g-1",))
    third = intent(result_defaults={"credits": 14}, previous=replace(second, state=RecordState.NOT_SUBMITTED))
    assert (third.earlier_credits, third.earlier_ids) == (2.5, ("g-1",))


def test_the_latest_ids_are_kept_of_many_submissions() -> None:
    record = None
    for number in range(30):
        record = rec.with_id(intent(result_defaults={"credits": 14}, previous=record), f"g-{number}")
    assert record is not None
    assert record.committed("credits") == 30 * 14
    assert record.submitted_ids == tuple(f"g-{number}" for number in range(20, 30))


def test_an_intent() -> None:
    record = intent(end_from_trigger=True)
    assert (record.state, record.intended_at) == (RecordState.INTENT, NOW)
    assert (record.fingerprint, record.max_tries, record.try_number) == (ATTEMPT.fingerprint, 2, 1)
    assert (record.conn_id, record.end_from_trigger, record.result_defaults) == ("c", True, {"model": "m"})
    assert (record.generation_id, record.callback_nonce, record.correlation) == (None, None, None)


def test_each_submission_has_its_own_nonce_and_correlation_value() -> None:
    one, other = (intent(calls_back=True, correlates=True) for _ in range(2))
    assert one.callback_nonce != other.callback_nonce
    assert len(one.callback_nonce) >= 16
    # It is a part of an address.
    assert not set(one.callback_nonce) - set(string.ascii_letters + string.digits + "-_")
    assert one.correlation.startswith("airflow-")
    assert one.correlation != other.correlation
    assert len(one.correlation) <= 64  # what ark takes


def test_a_synchronous_answer_is_kept_whole() -> None:
    done = generation("succeeded", urls=("https://cdn.example/1.png",))
    record = rec.as_submitted(intent(), done, NOW, synchronous=True)
    assert record == replace(
        intent(),
        state=RecordState.ENDED,
        generation_id="g-9",
        status=GenerationStatus.SUCCEEDED,
        result=done.result(),
        submitted_at=NOW,
        ended_at=NOW,
    )
    assert Generation.from_result(record.result) == done


def test_a_submission_and_an_end_that_the_service_can_tell_again_are_not_kept_whole() -> None:
    record = rec.as_submitted(intent(), generation("failed"), NOW, synchronous=False)
    assert (record.state, record.status) == (RecordState.ENDED, GenerationStatus.FAILED)
    assert record.result is None
    known = rec.as_submitted(intent(), generation(), NOW, synchronous=False)
    assert (known.state, known.generation_id, known.submitted_at) == (RecordState.SUBMITTED, "g-9", NOW)
    assert (known.status, known.result, known.ended_at) == (None, None, None)
    later = NOW + timedelta(minutes=3)
    assert rec.as_ended(known, generation("failed"), later) == replace(
        known, state=RecordState.ENDED, status=GenerationStatus.FAILED, ended_at=later
    )


def test_adoption_takes_the_try_over() -> None:
    later = Attempt(fingerprint=ATTEMPT.fingerprint, max_tries=5, try_number=4)
    record = rec.taken_over(intent(), later)
    assert (record.max_tries, record.try_number, record.state) == (5, 4, RecordState.INTENT)
    found = rec.with_id(intent(), "g-2")
    assert (found.state, found.generation_id) == (RecordState.SUBMITTED, "g-2")
    again = rec.taken_over(found, later)
    assert (again.state, again.generation_id) == (RecordState.SUBMITTED, "g-2")
