"""A process that records submissions in the configured ledger, for the tests of concurrency; prints a duration each."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

from airflow_provider_seedance.generations import Generation, GenerationStatus, VideoRequest, utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, SubmissionDetails


def submit(worker: str, number: int) -> float:
    """Record one submission as a worker does; return the seconds that it took."""
    ti: Any = SimpleNamespace(
        dag_id="dag", run_id=f"run {worker}", task_id="task", map_index=number, id=f"{worker}.{number}"
    )
    prompt = f"{worker} {number}"
    fingerprint = rec.Fingerprint.of(VideoRequest(prompt=prompt), api="ark", base_url="https://ark.example")
    attempt = rec.Attempt(fingerprint=fingerprint, max_tries=1, try_number=1, ti_id=ti.id)
    intent = rec.intent_record(
        attempt, utc_now(), correlates=True, result_defaults={"credits": 14}, end_from_trigger=False
    )
    running = Generation(
        generation_id=f"{worker}-{number}", api="ark", media="video", status=GenerationStatus.RUNNING
    )
    started = time.perf_counter()
    store = open_store({"ti": ti})  # type: ignore[typeddict-item]
    assert store.read(GENERATION_KEY) is None
    store.write_intent(GENERATION_KEY, intent, SubmissionDetails(conn_id="seedance_default", prompt=prompt))
    store.write(GENERATION_KEY, rec.as_submitted(intent, running, utc_now(), synchronous=False))
    return time.perf_counter() - started


def main() -> None:
    worker, count = sys.argv[1], int(sys.argv[2])
    print(*(submit(worker, number) for number in range(count)))  # noqa: T201


if __name__ == "__main__":
    main()
