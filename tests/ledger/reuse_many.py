"""Processes that make the same requests at the same moment with reuse; prints the submissions of each request as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, VideoRequest, utc_now
from airflow_provider_seedance.ledger import open_store
from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, ReuseSearch, SubmissionDetails

STATUSES = {"failed": GenerationStatus.FAILED, "succeeded": GenerationStatus.SUCCEEDED}


def generation(generation_id: str, status: GenerationStatus) -> Generation:
    return Generation(generation_id=generation_id, api="ark", media="video", status=status)


def write_intent(store: Any, worker: int, number: int, unusable_ids: frozenset[str]) -> rec.Record:
    """Write an intent; wait while another process submits."""
    fingerprint = rec.Fingerprint.of(VideoRequest(prompt="x"), api="ark", base_url="https://ark.example")
    attempt = rec.Attempt(fingerprint=fingerprint, max_tries=1, try_number=1, ti_id=f"{worker}.{number}")
    key = f"key {number}"
    while True:
        intent = rec.intent_record(
            attempt,
            utc_now(),
            conn_id="c",
            passed_over={},
            correlates=False,
            result_defaults={"credits": 14},
            end_from_trigger=False,
        )
        search = ReuseSearch(scope="any", intents={key: intent}, unusable_ids=unusable_ids)
        details = SubmissionDetails(prompt="x", reuse=search, reuse_key=key)
        try:
            return store.write_intent(GENERATION_KEY, intent, details)  # type: ignore[no-any-return]
        except errors.SeedanceRateLimitError:
            time.sleep(0.1)


def end_of(generation_id: str) -> str:
    """Wait for the end of a generation that another process has submitted."""
    config = read_config()
    assert config is not None
    while True:
        rows = list_submissions(Database(config), Filter(text=generation_id, state="ended"))
        if found := [row["status"] for row in rows if row["generation_id"] == generation_id]:
            return str(found[0])
        time.sleep(0.2)


def deliver(worker: int, number: int, posts: Path) -> None:
    """
    Come to a generation that has succeeded, as a task does.

    Of every three requests, the first is rejected once, and the generation of the second fails once.
    """
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id=f"t{worker}", map_index=number, id=f"{worker}.{number}"
    )
    store, unusable_ids = open_store({"ti": ti}), frozenset[str]()  # type: ignore[typeddict-item]
    while True:
        record = write_intent(store, worker, number, unusable_ids)
        if record.reused_from:
            generation_id = str(record.generation_id)
            if (status := end_of(generation_id)) == "failed":
                store.write(GENERATION_KEY, rec.replace(record, state=rec.RecordState.NOT_SUBMITTED))
                unusable_ids |= {generation_id}
                continue
            store.write(
                GENERATION_KEY, rec.as_ended(record, generation(generation_id, STATUSES[status]), utc_now())
            )
            return
        # No other process writes here before the outcome is recorded.
        earlier = posts.read_text().count("\n") if posts.exists() else 0
        with posts.open("a") as file:
            file.write(f"{worker}\n")
        time.sleep(0.02)
        if number % 3 == 0 and not earlier:
            store.write(GENERATION_KEY, rec.replace(record, state=rec.RecordState.NOT_SUBMITTED))
            continue
        running = generation(f"g{number}-{earlier}-", GenerationStatus.RUNNING)
        record = rec.as_submitted(record, running, utc_now(), synchronous=False)
        store.write(GENERATION_KEY, record)
        time.sleep(0.1)
        failed = number % 3 == 1 and not earlier
        status = GenerationStatus.FAILED if failed else GenerationStatus.SUCCEEDED
        store.write(
            GENERATION_KEY, rec.as_ended(record, generation(running.generation_id, status), utc_now())
        )
        return


def main() -> None:
    processes, requests = map(int, sys.argv[1:])
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(processes)
    directory = Path(tempfile.mkdtemp())

    def work(worker: int) -> None:
        ready.wait()
        for number in range(requests):
            deliver(worker, number, directory / f"{number}")

    running = [fork.Process(target=work, args=(worker,)) for worker in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * processes
    counts = [(directory / name).read_text().count("\n") for name in sorted(os.listdir(directory), key=int)]
    print(json.dumps(counts))  # noqa: T201


if __name__ == "__main__":
    main()
