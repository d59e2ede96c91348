"""Rows of the ledger: the columns of a record, and what of a result is stored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet

from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.ledger import entries
from airflow_provider_seedance.ledger.entries import LedgerEntry, TaskIdentity, clipped
from airflow_provider_seedance.ledger.search_text import INCOMPLETE, prompt_text
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import SubmissionDetails

from .record_samples import NOW, generation, intent

PAYER = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 1}


def columns(record: rec.Record | None, result: Any = None) -> dict[str, Any]:
    return LedgerEntry("a.0", record=record, result=result).columns()


def test_the_identity_of_a_task_instance() -> None:
    ti: Any = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=3)
    found = TaskIdentity.of("n", {"ti": ti, "loop": SimpleNamespace(index=2)})
    fields = {"namespace": "n", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 3, "loop_index": 2}
    assert found == TaskIdentity(**fields)
    # Rows of earlier releases are found by it.
    digest = "12b8f39a"
    assert found.columns() == {"instance": found.instance, **fields}
    assert (len(found.instance), found.instance[:8]) == (32, digest)
    del ti.map_index
    alone = TaskIdentity.of("n", {"ti": ti})
    assert (alone.map_index, alone.loop_index) == (-1, -1)


# ---------------------------------------------------------------------- columns


def test_the_columns_of_a_submission_that_has_ended() -> None:
    defaults = {"model": "requested", "duration": "5", "resolution": "720p", "credits": 14}
    defaults |= {"cost_usd": "0.07"}
    made = generation(1, usage={"output_tokens": 7}, credits=12, cost_usd=None, resolution=None)
    record = rec.as_submitted(intent("a", **defaults), made, NOW, synchronous=True)
    found = columns(record)
    expected = {
        "state": "ended",
        "status": "succeeded",
        "generation_id": "cgt-20260102030405-00001",
        "conn_id": "seedance_default",
        "max_tries": 2,
        "try_number": 1,
        "submitted_at": NOW,
        "fingerprint": record.fingerprint.digest(),
        "api": "ark",
        "base_url": "https://ark.example",
        "media": "video",
        "model": "seedance-1-5-pro",
        "resolution": "720p",
        "duration": 5,
        "estimated_credits": 14,
        "estimated_cost_usd": 0.07,
        "credits": 12,
        "cost_usd": 0.07,
        "output_tokens": 7,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["kind"]
    assert found["result"]["url"] == "https://media.example/1.mp4"
    assert columns(rec.replace(record, result_defaults={"reused_from": PAYER}))["kind"] is None


def test_the_columns_of_a_key_without_a_submission() -> None:
    assert columns(None) == {"state": "not_submitted", "search_text": ""}
    submitted = {
        state: LedgerEntry("a.0", record=rec.replace(intent(), state=state)).was_submitted
        for state in rec.RecordState
    }
    assert [state.value for state, was in submitted.items() if not was] == ["not_submitted"]
    assert not LedgerEntry("a.0", record=None).was_submitted
    assert columns(intent(), result={"model": "m"})["model"] == "m"


@pytest.mark.parametrize(
    ("state", "status", "reported", "cost"),
    [
        ("submitted", None, 3.0, None),
        ("ended", GenerationStatus.SUCCEEDED, None, 14),
        ("ended", GenerationStatus.SUCCEEDED, 3.0, 3.0),
        ("ended", GenerationStatus.SUCCEEDED, 0.0, 0.0),
        ("ended", GenerationStatus.FAILED, None, 0.0),
        ("ended", GenerationStatus.FAILED, 3.0, 3.0),
    ],
)
def test_the_actual_cost(state: Any, status: Any, reported: float | None, cost: float | None) -> None:
    record = rec.replace(
        intent(credits=14),
        state=rec.RecordState(state),
        status=status,
        generation_id="g",
        reported_credits=reported,
    )
    assert columns(record)["credits"] == cost


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("resolution", "x" * 60, "x" * 50),
        ("prompt", "x" * 60 + "\0y", "x" * 60 + "y"),
        ("prompt", "a\ud800b", "a?b"),
        ("model", 5, "5"),
        ("model", None, None),
        ("duration", 5, "5"),
    ],
)
def test_a_text_is_stored_as_its_column_takes_it(column: str, value: object, stored: str | None) -> None:
    assert clipped(column, value) == stored


@pytest.mark.parametrize(("prompts", "prompt"), [(True, "ab"), (False, None)])
def test_the_columns_of_the_details(prompts: bool, prompt: str | None) -> None:
    details = SubmissionDetails(prompt="a\0b", item_key="k" * 300, reuse_key="r")
    task = TaskIdentity(namespace="n", dag_id="d", run_id="r", task_id="t")
    text = prompt_text("n", "d", "k" * 250, prompt)
    expected = {"item_key": "k" * 250, "prompt": prompt, "search_text": text, "reuse_key": "r"}
    assert entries.details_columns(task, details, prompts=prompts) == expected
    assert text.endswith("ab") is prompts


@pytest.mark.timeout(100)
def test_the_words_of_a_very_long_prompt_are_not_compared_with_each_other() -> None:
    """It took minutes before the submission."""
    assert prompt_text("n", "d", None, " ".join(map(str, range(200_000)))) == INCOMPLETE


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://u:p@m.example:8/a.mp4?sig=1#top", "https://m.example:8/a.mp4"),
        ("http://m.example/a.mp4", "http://m.example/a.mp4"),
        ("data:image/png;base64,AAAA", "data:…"),
        ("s3://bucket/a.mp4", "s3:…"),
        ("https://[/a.mp4", "(not shown)"),
    ],
)
def test_a_link_without_what_signs_it(url: str, public: str) -> None:
    found = entries.public_result({"urls": [url], "url": url, "last_frame_url": url, "seed": 5})
    assert found == {"urls": [public], "url": public, "last_frame_url": public, "seed": 5}
    without = {"urls": [], "url": None, "last_frame_url": None}
    assert entries.public_result({"urls": None, "last_frame_url": None}) == without


@pytest.mark.usefixtures("new_ledger")
def test_what_a_later_try_needs_of_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    public = entries.public_result({"urls": ["https://m.example/a.mp4"]})
    assert entries.stored_result(None) == {}
    assert entries.stored_result(public) == {"result_is_complete": True}
    signed = {**public, "urls": ["https://m.example/a.mp4?sig=1"]}
    (text,) = (found := entries.stored_result(signed)).values()
    assert list(found) == ["sealed_result"]
    monkeypatch.setattr(entries, "MAX_RESULT_BYTES", len(text))
    assert list(entries.stored_result(signed)) == ["sealed_result"]
    monkeypatch.setattr(entries, "MAX_RESULT_BYTES", len(text) - 1)
    assert entries.stored_result(signed) == {}


OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


@pytest.mark.parametrize(
    ("keys", "found"),
    [(OLD, True), (f"{NEW}, {OLD}", True), (NEW, False), ("", False), ("no key", False)],
    ids=["same", "two keys", "other", "none", "not a key"],
)
def test_signed_links_are_read_with_any_of_the_keys(
    monkeypatch: pytest.MonkeyPatch, keys: str, found: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", OLD)
    stored = entries.stored_result({"urls": ["https://m.example/u?sig=1"]})["sealed_result"]
    assert "m.example" not in stored
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", keys)
    assert keys or entries.stored_result({"urls": ["https://m.example/u?sig=1"]}) == {}
    assert (entries._unseal(stored) is not None) is found
