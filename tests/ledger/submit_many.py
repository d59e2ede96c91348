"""Processes that record submissions in the configured ledger at the same moment; prints the duration of each as JSON."""

from __future__ import annotations

import json
import multiprocessing
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
        attempt,
        utc_now(),
        conn_id="seedance_default",
        passed_over={},
        correlates=True,
        result_defaults={"credits": 14},
        end_from_trigger=False,
    )
    running = Generation(
        generation_id=f"{worker}-{number}", api="ark", media="video", status=GenerationStatus.RUNNING
    )
    started = time.perf_counter()
    store = open_store({"ti": ti})  # type: ignore[typeddict-item]
    assert store.read(GENERATION_KEY) is None
    store.write_intent(GENERATION_KEY, intent, SubmissionDetails(prompt=prompt))
    store.write(GENERATION_KEY, rec.as_submitted(intent, running, utc_now(), synchronous=False))
    return time.perf_counter() - started


def main() -> None:
    processes, each = map(int, sys.argv[1:])
    # Forked, so that they begin together, and Airflow is imported once.
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(processes)

    def work(worker: int, results: Any) -> None:
        ready.wait()
        results.put([submit(f"w{worker}", number) for number in range(each)])

    results = fork.SimpleQueue()
    running = [fork.Process(target=work, args=(worker, results)) for worker in range(processes)]
    for process in running:
        process.start()
    durations = []
    while len(durations) < processes and any(process.is_alive() for process in running):
        while not results.empty():
            durations.append(results.get())
        time.sleep(0.05)
    for process in running:
        process.join()
    while not results.empty():
        durations.append(results.get())
    assert [process.exitcode for process in running] == [0] * processes
    print(json.dumps(durations))  # noqa: T201


if __name__ == "__main__":
    main()
