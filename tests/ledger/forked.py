"""
Processes on the configured ledger that begin together, forked from one that has loaded what a submission needs.

``submit PROCESSES EACH`` records submissions; ``reuse PROCESSES REQUESTS`` makes the same requests in each process, and
prints how often each was submitted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation, GenerationStatus, VideoRequest, utc_now
from airflow_provider_seedance.ledger import database, open_store
from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.ledger.configuration import read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, ReuseSearch, SubmissionDetails

#: Modules that SQLAlchemy and the ledger load for the first statement only.
DRIVERS = ("psycopg2", "sqlalchemy.dialects.postgresql", "pymysql", "sqlalchemy.dialects.mysql")


def store_of(worker: int, number: int) -> Any:
    ti = SimpleNamespace(
        dag_id="d", run_id=f"r{worker}", task_id="t", map_index=number, id=f"{worker}.{number}"
    )
    return open_store({"ti": ti})  # type: ignore[typeddict-item]


def make_intent(worker: int, number: int) -> rec.Record:
    fingerprint = rec.Fingerprint.of(VideoRequest(prompt="x"), api="ark", base_url="https://ark.example")
    return rec.intent_record(
        rec.Attempt(fingerprint=fingerprint, max_tries=1, try_number=1, ti_id=f"{worker}.{number}"),
        utc_now(),
        conn_id="c",
        passed_over={},
        correlates=False,
        result_defaults={"credits": 14},
        end_from_trigger=False,
    )


def generation(generation_id: str, status: str) -> Generation:
    return Generation(generation_id=generation_id, api="ark", media="video", status=GenerationStatus(status))


def submit(worker: int, number: int) -> None:
    """Record one submission as a worker does."""
    store, intent = store_of(worker, number), make_intent(worker, number)
    assert store.read(GENERATION_KEY) is None
    store.write_intent(GENERATION_KEY, intent, SubmissionDetails(prompt=f"{worker} {number}"))
    running = generation(f"{worker}-{number}", "running")
    store.write(GENERATION_KEY, rec.as_submitted(intent, running, utc_now(), synchronous=False))


def write_intent(store: Any, worker: int, number: int, unusable_ids: frozenset[str]) -> rec.Record:
    """Write an intent; wait while another process submits."""
    key = f"key {number}"
    while True:
        intent = make_intent(worker, number)
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
    store, unusable_ids = store_of(worker, number), frozenset[str]()
    while True:
        record = write_intent(store, worker, number, unusable_ids)
        if record.reused_from:
            generation_id = str(record.generation_id)
            if (status := end_of(generation_id)) == "failed":
                store.write(GENERATION_KEY, rec.replace(record, state=rec.RecordState.NOT_SUBMITTED))
                unusable_ids |= {generation_id}
                continue
            store.write(GENERATION_KEY, rec.as_ended(record, generation(generation_id, status), utc_now()))
            return
        # No other process writes here before the outcome is recorded.
        earlier = posts.read_text().count("\n") if posts.exists() else 0
        with posts.open("a") as file:
            file.write(f"{worker}\n")
        time.sleep(0.02)
        if number % 3 == 0 and not earlier:
            store.write(GENERATION_KEY, rec.replace(record, state=rec.RecordState.NOT_SUBMITTED))
            continue
        generation_id = f"g{number}-{earlier}-"
        record = rec.as_submitted(record, generation(generation_id, "running"), utc_now(), synchronous=False)
        store.write(GENERATION_KEY, record)
        time.sleep(0.1)
        status = "failed" if number % 3 == 1 and not earlier else "succeeded"
        store.write(GENERATION_KEY, rec.as_ended(record, generation(generation_id, status), utc_now()))
        return


def load_everything() -> None:
    """Submit once on a ledger that is thrown away; the configured one stays untouched."""
    for name in DRIVERS:
        with suppress(ImportError):
            import_module(name)
    configured = os.environ["AIRFLOW__SEEDANCE__LEDGER"]
    with tempfile.TemporaryDirectory() as directory:
        os.environ["AIRFLOW__SEEDANCE__LEDGER"] = f"sqlite:///{directory}/ledger.db"
        deliver(0, 2, Path(os.devnull))
    os.environ["AIRFLOW__SEEDANCE__LEDGER"] = configured
    database._opened.clear()


def run_forked(processes: int, each: int, work: Callable[[int, int], None]) -> None:
    load_everything()
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(processes)

    def run(worker: int) -> None:
        ready.wait()
        for number in range(each):
            work(worker, number)

    running = [fork.Process(target=run, args=(worker,)) for worker in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * processes


def main() -> None:
    name, processes, each = sys.argv[1], *map(int, sys.argv[2:])
    if name == "submit":
        run_forked(processes, each, submit)
        return
    with tempfile.TemporaryDirectory() as directory:
        posts = [Path(directory, str(number)) for number in range(each)]
        run_forked(processes, each, lambda worker, number: deliver(worker, number, posts[number]))
        print(json.dumps([path.read_text().count("\n") for path in posts]))  # noqa: T201


if __name__ == "__main__":
    main()
