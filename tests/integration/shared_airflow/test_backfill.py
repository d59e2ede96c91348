"""``airflow backfill create`` over the example: it pays for missing renders, and for nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import TestAirflow
from versions import STATE_STORE, needs

from airflow_provider_seedance.testing import SeedanceEmulator

EXAMPLE = Path(__file__).parents[3] / "example_dags" / "example_seedance_backfill.py"
DAG_ID = "example_seedance_backfill"
PRODUCTS = 3
SLOTS = 4

#: Airflow 3.1 also makes a run of today, when the first run ends.
UNSCHEDULED = "2026-02"

#: Seconds for anything that must happen: only a test that fails waits that long.
TIMEOUT_SECONDS = 480.0


@dataclass
class Field:
    """An Airflow with the example, and the service behind it."""

    airflow: TestAirflow
    emulator: SeedanceEmulator
    stored: Path

    def backfill(self, since: str, until: str, *options: str) -> int:
        """Begin a backfill; returns its id."""
        dates = ("--from-date", since, "--to-date", until)
        with self.airflow.halted():
            done = self.airflow.cli("backfill", "create", "--dag-id", DAG_ID, *dates, *options)
        assert done.returncode == 0, done.stderr
        return int(self.airflow.database.rows("SELECT MAX(id) AS latest FROM backfill")[0]["latest"])

    def ended(self, backfill: int) -> bool:
        (row,) = self.airflow.database.rows("SELECT completed_at FROM backfill WHERE id = ?", backfill)
        return row["completed_at"] is not None

    def finish(self, backfill: int) -> None:
        """Wait for the end of a backfill."""

        def look() -> bool:
            return self.ended(backfill) and set(self.states().values()) <= {"success", "failed"}

        self.airflow.wait_until(look, TIMEOUT_SECONDS, f"the end of backfill {backfill}")

    def states(self) -> dict[str, str]:
        """Return the state of each run of a backfill, by its date."""
        runs = self.airflow.database.rows("SELECT logical_date, state FROM dag_run WHERE dag_id = ?", DAG_ID)
        found = {run["logical_date"][:10]: run["state"] for run in runs}
        return {date: state for date, state in found.items() if date < UNSCHEDULED}

    def paid(self) -> Counter[str]:
        """Submissions by the date in their prompt."""
        dates = (one.prompt.rpartition(" of ")[2] for one in self.emulator.ledger.submissions)
        return Counter(date for date in dates if date < UNSCHEDULED)

    def files(self, date: str) -> list[str]:
        folder = self.stored / DAG_ID / date
        return sorted(path.suffix for path in folder.glob("*")) if folder.exists() else []


@pytest.fixture(scope="module")
def field(airflow: TestAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    stored = tmp_path_factory.mktemp("backfill")
    arguments = '"retry_delay": 1, "seedance_conn_id": "backfill", "retries"'
    dag = EXAMPLE.read_text().replace("file:///tmp/seedance-examples", stored.as_uri())
    dag = dag.replace('"retries"', arguments).replace("catchup=False", "is_paused_upon_creation=True")
    with SeedanceEmulator(media=False, speed=20, render_seconds=40, rate_limit=(60, 6.0)) as emulator:
        airflow.connect("backfill", emulator.connection("seedanceapi-v2"))
        airflow.create_pool("seedance_renders", SLOTS)
        airflow.load_dag(DAG_ID, dag)
        airflow.unpause_unscheduled(DAG_ID)
        yield Field(airflow=airflow, emulator=emulator, stored=stored)
        airflow.rest("PATCH", f"/dags/{DAG_ID}", {"is_paused": True}, {"update_mask": "is_paused"})


def test_each_date_renders_its_own_prompts_in_a_pool_and_under_a_quota(field: Field) -> None:
    most = 0

    def count() -> int:
        nonlocal most
        flying = [one for one in field.emulator.generations if one.status in ("queued", "running")]
        most = max(most, len(flying))
        return len(flying)

    field.emulator.hold()  # until the pool is full, however slowly its tasks start
    try:
        backfill = field.backfill("2026-01-01", "2026-01-03", "--max-active-runs", "3")
        field.airflow.wait_until(lambda: count() == SLOTS, TIMEOUT_SECONDS, "a render in each slot")
    finally:
        field.emulator.release()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not field.ended(backfill) and time.monotonic() < deadline:
        count()
        time.sleep(0.3)
    field.finish(backfill)
    dates = [f"2026-01-0{day}" for day in range(1, 4)]
    assert field.states() == dict.fromkeys(dates, "success")
    assert field.paid() == dict.fromkeys(dates, PRODUCTS)
    assert all(field.files(date) == [".mp4"] * PRODUCTS for date in dates)
    assert most == SLOTS


@needs(STATE_STORE)
@pytest.mark.variant
def test_reprocessing_failed_runs_pays_nothing_for_succeeded_renders(field: Field) -> None:
    before = field.paid()
    fault = field.emulator.fault("refuse", on="media", prompt="*satchel*2026-01-06*", times=None, status=404)
    field.finish(field.backfill("2026-01-05", "2026-01-06"))
    assert field.states()["2026-01-05"] == "success"
    assert field.states()["2026-01-06"] == "failed"
    assert fault.used
    assert field.files("2026-01-06") == [".mp4"] * (PRODUCTS - 1)
    paid = field.paid()
    assert paid - before == {"2026-01-05": PRODUCTS, "2026-01-06": PRODUCTS}
    fault.remove()
    # The render had succeeded, the upload had failed: the run is cleared as a whole, and nothing is paid.
    field.finish(field.backfill("2026-01-05", "2026-01-06", "--reprocess-behavior", "failed"))
    assert field.states()["2026-01-06"] == "success"
    assert field.files("2026-01-06") == [".mp4"] * PRODUCTS
    assert field.paid() == paid
    field.finish(field.backfill("2026-01-05", "2026-01-06", "--reprocess-behavior", "completed"))
    assert field.states()["2026-01-05"] == "success"
    assert field.paid() == paid


def test_a_cancelled_backfill_submits_no_more_and_delivers_paid_renders(field: Field) -> None:
    field.emulator.hold()
    try:
        backfill = field.backfill("2026-01-10", "2026-01-12", "--max-active-runs", "1")
        field.airflow.wait_until(
            lambda: field.paid()["2026-01-10"] == PRODUCTS, TIMEOUT_SECONDS, "the renders of the first date"
        )
        field.airflow.rest("PUT", f"/backfills/{backfill}/cancel")
    finally:
        field.emulator.release()
    field.finish(backfill)
    assert field.states()["2026-01-10"] == "success"
    assert field.files("2026-01-10") == [".mp4"] * PRODUCTS
    assert {field.states()[f"2026-01-1{day}"] for day in (1, 2)} == {"failed"}
    assert {date for date in field.paid() if date > "2026-01-10"} == set()
