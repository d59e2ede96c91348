"""``estimate``: a file of requests, its connection, and refused arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_provider_seedance.cli import connection, main
from cli.estimates import EXAMPLES, estimate

# Airflow 3.1 looks into its own old modules where it makes its bundles.
pytestmark = pytest.mark.filterwarnings("ignore:The `airflow.operators")


@pytest.fixture
def requests(tmp_path: Path) -> str:
    """A file of one request."""
    path = tmp_path / "requests.jsonl"
    path.write_text('"a lamp"\n')
    return str(path)


def test_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("key,prompt,duration\na,a lamp,4\nb,a shoe,8\n")
    main(["estimate", str(path), "--api", "seedanceapi-v1", "--resolution", "720p"])
    output = capfd.readouterr().out
    assert output.startswith("seedanceapi-v1\nmodel")
    assert "720p" in output
    assert "total" in output
    assert "Nothing was sent, nothing is billed." in output


def test_the_connection_says_which_service(
    requests: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = '{"conn_type": "seedance", "password": "k", "extra": {"api": "ark"}}'
    monkeypatch.setenv("AIRFLOW_CONN_MINE", fields)
    found = estimate(capfd, requests, "--conn-id", "mine")
    assert found["estimates"][0]["api"] == "ark"
    assert found["estimates"][0]["credits"] is None


def test_a_misspelt_service(requests: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", requests, "--api", "arc"])
    assert "--api is 'arc'; it takes" in (printed := capfd.readouterr().err)
    assert "Did you mean 'ark'?" in printed


def test_without_a_connection_the_error_names_the_alternatives(
    requests: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", requests])
    assert "--api" in capfd.readouterr().err


@pytest.mark.parametrize(("there", "context"), [(True, "server"), (False, None)])
def test_connections_are_read_from_an_existing_database(
    requests: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    there: bool,
    context: str | None,
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
    assert estimate(capfd, requests)["estimates"][0]["renders"] == 1
    assert seen == [context]
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ
    assert database.exists() is there


# ---------------------------------------------------------------------- refused arguments


DAILY = str(EXAMPLES / "example_seedance_daily.py")
BACKFILL = ["--dag", "example_seedance_backfill", "--file", str(EXAMPLES / "example_seedance_backfill.py")]


def test_arguments_that_cannot_be_estimated(capfd: pytest.CaptureFixture[str]) -> None:
    for line, output in [
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
        with pytest.raises(SystemExit) as caught:
            main(["estimate", *line])
        assert caught.value.code == 2
        assert output in capfd.readouterr().err


def test_the_example_of_a_backfill(capfd: pytest.CaptureFixture[str]) -> None:
    period = ("--from", "2026-01-01", "--to", "2026-01-03")
    (one,) = estimate(capfd, *BACKFILL, "--api", "seedanceapi-v1", *period)["estimates"]
    assert (one["renders"], one["credits"]) == (9, 9 * 28)
