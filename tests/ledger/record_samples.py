"""Records of submissions, and what makes them up."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from helpers import video

from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import SubmissionDetails

DETAILS = SubmissionDetails(prompt="A quartz heron", item_key="heron")

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def fingerprint(prompt: str) -> rec.Fingerprint:
    return rec.Fingerprint.of(video(prompt), api="ark", base_url="https://ark.example")


def attempt(prompt: str = "a") -> rec.Attempt:
    return rec.Attempt(fingerprint=fingerprint(prompt), max_tries=2, try_number=1)


def generation(number: int, **changes: Any) -> Generation:
    known: dict[str, Any] = {
        "generation_id": f"cgt-20260102030405-{number:05}",
        "api": "ark",
        "media": "video",
        "status": GenerationStatus.SUCCEEDED,
        "model": "seedance-1-5-pro",
        "urls": (f"https://media.example/{number}.mp4?X-Signature={'5' * 60}",),
        "duration": 5,
        "resolution": "720p",
        "credits": 14,
        "cost_usd": 0.07,
        "completed_at": NOW,
        **changes,
    }
    return Generation(**known)


def intent(prompt: str = "a", **result_defaults: Any) -> rec.Record:
    return rec.intent_record(
        attempt(prompt),
        NOW,
        conn_id="seedance_default",
        passed_over={},
        correlates=True,
        result_defaults=result_defaults,
        end_from_trigger=False,
    )


def ended(number: int, failure: rec.Failure | None = None, **changes: Any) -> rec.Record:
    made = generation(number, **changes)
    record = rec.as_submitted(intent(f"prompt {number}", credits=14), made, NOW, synchronous=True)
    return rec.replace(record, failure=failure)


#: Records with the same correlation value each time.
same_intent = cache(intent)
same_ended = cache(ended)


def later(seconds: int, **changes: Any) -> rec.Record:
    """Make the intent of another submission."""
    return rec.replace(same_intent(), intended_at=NOW.replace(second=seconds), **changes)


def submitted(record: rec.Record, number: int = 1) -> rec.Record:
    running = generation(number, status=GenerationStatus.RUNNING, urls=())
    return rec.as_submitted(record, running, NOW, synchronous=False)


#: One of each kind.
RECORDS = [
    intent(credits=14, model="m"),
    rec.replace(intent(), state=rec.RecordState.UNCERTAIN, ti_id="1"),
    rec.replace(intent(), state=rec.RecordState.NOT_SUBMITTED),
    submitted(intent(credits=14)),
    ended(1),
    ended(2, status=GenerationStatus.FAILED, urls=()),
    ended(3, rec.Failure(kind="failed", error="GPU on fire", final=True), urls=("https://m.example/3.mp4",)),
]
