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
from typing import Any

from support import TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import database, open_store
from airflow_provider_seedance.ledger.account import Filter, list_submissions
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.store import GENERATION_KEY, ReuseSearch, SubmissionDetails
from ledger import record_samples as samples
from ledger.rows import configured, generation

#: Modules that SQLAlchemy and the ledger load for the first statement only.
DRIVERS = ("psycopg2", "sqlalchemy.dialects.postgresql", "pymysql", "sqlalchemy.dialects.mysql")


def store_of(worker: int, number: int) -> Any:
    ti = TaskInstance(map_index=number)
    ti.run_id = f"r{worker}"
    return open_store(make_context(None, ti))


def make_intent() -> rec.Record:
    return rec.replace(samples.intent(credits=14), intended_at=utc_now())


def submit(worker: int, number: int) -> None:
    """Record one submission as a worker does."""
    store, intent = store_of(worker, number), make_intent()
    assert store.read(GENERATION_KEY) is None
    store.write_intent(GENERATION_KEY, intent, SubmissionDetails(prompt=f"{worker} {number}"))
    store.write(GENERATION_KEY, rec.with_id(intent, f"{worker}-{number}"))


def write_intent(store: Any, number: int, unusable_ids: frozenset[str]) -> rec.Record:
    """Write an intent; wait while another process submits."""
    key = f"key {number}"
    while True:
        intent = make_intent()
        search = ReuseSearch(scope="any", intents={key: intent}, unusable_ids=unusable_ids)
        details = SubmissionDetails(prompt="x", reuse=search, reuse_key=key)
        try:
            return store.write_intent(GENERATION_KEY, intent, details)  # type: ignore[no-any-return]
        except errors.SeedanceRateLimitError:
            time.sleep(0.1)


def end_of(generation_id: str) -> str:
    """Wait for the end of a generation that another process has submitted."""
    while True:
        rows = list_submissions(configured(), Filter(text=generation_id, state="ended"))
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
        record = write_intent(store, number, unusable_ids)
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
        record = rec.with_id(record, generation_id)
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
    location = os.environ["AIRFLOW__SEEDANCE__LEDGER"]
    with tempfile.TemporaryDirectory() as directory:
        os.environ["AIRFLOW__SEEDANCE__LEDGER"] = f"sqlite:///{directory}/ledger.db"
        deliver(0, 2, Path(os.devnull))
    os.environ["AIRFLOW__SEEDANCE__LEDGER"] = location
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
