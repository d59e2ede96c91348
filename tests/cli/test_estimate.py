"""``estimate``: a file of requests, its connection, and refused arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.cli import connection

Run = Callable[..., tuple[Any, str]]
EXAMPLES = Path(__file__).parents[2] / "example_dags"

# Airflow 3.1 looks into its own old modules where it makes its bundles.
pytestmark = pytest.mark.filterwarnings("ignore:The `airflow.operators")


@pytest.fixture
def requests(tmp_path: Path) -> str:
    """A file of one request."""
    path = tmp_path / "requests.jsonl"
    path.write_text('"a lamp"\n')
    return str(path)


def test_a_file(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("key,prompt,duration\na,a lamp,4\nb,a shoe,8\n")
    output, _ = run("estimate", str(path), "--api", "seedanceapi-v1", "--resolution", "720p")
    assert output.startswith("seedanceapi-v1\nmodel")
    assert "720p" in output
    assert "total" in output
    assert "Nothing was sent, nothing is billed." in output


def test_the_connection_says_which_service(requests: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = '{"conn_type": "seedance", "password": "k", "extra": {"api": "ark"}}'
    monkeypatch.setenv("AIRFLOW_CONN_MINE", fields)
    found, _ = run("estimate", requests, "--conn-id", "mine", "--output", "json")
    assert found["estimates"][0]["api"] == "ark"
    assert found["estimates"][0]["credits"] is None


@pytest.mark.parametrize("there", [True, False])
def test_connections_are_read_from_an_existing_database(
    requests: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    database = tmp_path / "airflow.db"
    if there:
        database.touch()
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{database}")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT", raising=False)
    seen: list[str | None] = []
    real = connection.connection_from_environment

    def noted() -> str | None:
        seen.append(os.environ.get("_AIRFLOW_PROCESS_CONTEXT"))
        return real()

    monkeypatch.setattr(connection, "connection_from_environment", noted)
    monkeypatch.setenv("SEEDANCE_API_KEY", "k")
    found, _ = run("estimate", requests, "--output", "json")
    assert found["estimates"][0]["renders"] == 1
    assert seen == ["server" if there else None]
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ
    assert database.exists() is there


# ---------------------------------------------------------------------- refused arguments


DAILY = str(EXAMPLES / "example_seedance_daily.py")
BACKFILL = ["--dag", "example_seedance_backfill", "--file", str(EXAMPLES / "example_seedance_backfill.py")]


def test_arguments_that_cannot_be_estimated(requests: str, run: Run) -> None:
    for line, output in [
        ([requests], "--api"),
        ([requests, "--api", "arc"], "--api is 'arc'; it takes"),
        ([requests, "--api", "arc"], "Did you mean 'ark'?"),
        ([], "Give either a file of requests or --dag"),
        (["requests.csv", "--dag", "d"], "Give either"),
        (["/no/such.csv", "--api", "ark"], "no such file"),
        (["--dag", "d", "--file", "/no/such.py"], "There is no file /no/such.py"),
        (["--dag", "nope", "--file", DAILY], "There is no Dag 'nope'"),
        (["--dag", "d", "--from", "2026-01-01"], "belong together"),
        ([*BACKFILL, "--from", "2026-02-01", "--to", "2026-01-01"], "is before --from"),
        ([*BACKFILL, "--from", "2026-01-01T01:00", "--to", "2026-01-01T02:00"], "has no run between"),
        ([*BACKFILL, "--from", "soon", "--to", "later"], "take dates"),
    ]:
        _, printed = run("estimate", *line, code=2)
        assert output in printed


def test_the_example_of_a_backfill(run: Run) -> None:
    line = ("--api", "seedanceapi-v1", "--from", "2026-01-01", "--to", "2026-01-03", "--output", "json")
    (one,) = run("estimate", *BACKFILL, *line)[0]["estimates"]
    assert (one["renders"], one["credits"]) == (9, 9 * 28)
