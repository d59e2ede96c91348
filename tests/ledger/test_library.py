"""The library: which renders a search finds, what it says of them, and their stored files."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column
from sqlalchemy.sql.visitors import iterate

from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.ledger import record_stored_files
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import LedgerEntry
from airflow_provider_seedance.ledger.library import Search, dag_ids, find_renders, stored_file
from airflow_provider_seedance.ledger.search_text import INCOMPLETE
from airflow_provider_seedance.ledger.tables import submissions
from airflow_provider_seedance.submission.store import GENERATION_KEY

from .record_samples import DETAILS, submitted
from .record_samples import same_intent as intent
from .rows import NOON, add, configured, generation, row, uncertain


@pytest.fixture
def database(any_ledger: Any) -> Database:
    return configured()


def renders(database: Database, text: str = "", *, dags: Any = ("ads",), **search: Any) -> dict[int, Any]:
    """Return the renders that a search finds, by their map index."""
    page = {name: search.pop(name) for name in ("limit", "offset") if name in search}
    chosen = Search(namespace="default", dag_ids=dags, text=text, **search)
    return {one["map_index"]: one for one in find_renders(database, chosen, **{"limit": 10, **page})}


def found(database: Database, text: str = "", **search: Any) -> list[int]:
    return list(renders(database, text, **search))


def test_words_of_the_prompt(database: Database) -> None:
    add(
        database,
        [
            row(0, prompt="A quartz heron at dawn"),
            row(1, prompt="A heron, 100% quartz", created_at=NOON + timedelta(seconds=1)),
            row(2, prompt="A fox_trot", dag_id="films"),
            row(3, prompt=None),
            row(4, prompt="Über den Dächern", dag_id="films"),
        ],
    )
    assert found(database, "HERON quartz") == [1, 0]
    assert found(database, "den Über DACH") == []
    assert found(database, "DEN Über films", dags=("films",)) == [4]
    assert found(database, "dawn quartz") == [0]
    assert found(database, "100%") == [1]
    assert found(database, "x_t") == []
    assert found(database, "x_t", dags=("ads", "films")) == [2]
    assert found(database, "g-3") == [3]
    assert dag_ids(database, "default") == {"ads", "films"}


@pytest.mark.parametrize(
    ("prompt", "finding", "missing"),
    [
        ("Crème brûlée im CAFÉ", ["CRÈME", "ÛLÉ", "café brûlée"], ["creme", "cafe"]),
        ("Straße über MÜNCHEN", ["STRASSE", "ÜBER", "münchen", "u\u0308ber"], ["munchen", "ubermünchen"]),
        ("夜晚的城市中文", ["中文", "的城", "中文 夜晚"], ["文城"]),
        ("A rocket 🚀 at 5%_/", ["🚀", "5%", "%_/"], ["🎬", "5_"]),
        ("İSTANBUL \u0131ş\u0131k", ["istanbul", "İstanbul", "ISTANBUL", "IŞIK", "işik"], ["stanbül"]),
        ("lighthouses, a light house", ["LIGHT", "thous", "a"], ["s,a", "lighthousesa", "house,"]),
        ("x", ["X", "x X", "x\0"], ["ABCDEFGHIJKL", "Z", "GHI"]),
    ],
    ids=["French", "German", "Chinese", "emoji", "Turkish", "parts", "one letter"],
)
def test_words_in_all_scripts(
    database: Database, prompt: str, finding: list[str], missing: list[str]
) -> None:
    add(database, [row(0, prompt=prompt), row(1, prompt="B", model="b")])
    for text in finding:
        assert found(database, text) == [0], text
    for text in missing:
        assert found(database, text) == [], text


def test_the_case_of_names_counts(database: Database) -> None:
    add(database, [row(0, namespace="Default"), row(1, dag_id="Ads"), row(2)])
    assert found(database, "heron") == found(database) == [2]
    assert dag_ids(database, "default") == {"ads", "Ads"}


def test_names_are_found_as_a_whole(database: Database) -> None:
    add(database, [row(0, generation_id="Gen-1", item_key="heron/1", model="m-1", prompt="A fox")])
    for text in ("Gen-1", "heron/1", "m-1", "ads", "FOX Gen-1 ads m-1"):
        assert found(database, text) == [0], text
    for text in ("gen-1", "Gen", "heron", "m-", "ad", "None", "owl Gen-1"):
        assert found(database, text) == [], text


@pytest.mark.parametrize(
    "texts", [{}, {"search_text": INCOMPLETE, "search_model": ""}], ids=["long", "without"]
)
def test_prompts_that_are_not_in_the_index(database: Database, texts: dict[str, str]) -> None:
    """Those with too many words, and those that were taken over without a prompt's text."""
    words = " ".join(f"word{number}" for number in range(400))
    times = [NOON + timedelta(seconds=number) for number in range(30)]
    rows = [row(n, prompt=f"{words} Über{n % 3}", created_at=times[n], **texts) for n in range(30)]
    add(database, [*rows, row(30, prompt="über1"), row(31, prompt=words, dag_id="films", **texts)])
    assert found(database, "ÜBER1 g-28", limit=2) == [28]
    pages = [number for at in range(0, 15, 3) for number in found(database, "ÜBER1", limit=3, offset=at)]
    assert pages == [*range(28, 0, -3), 30]
    assert found(database, limit=2, offset=1) == [28, 27]
    assert found(database, "word399 über4") == []
    assert found(database, "word399", dags=("films",)) == [31]


def test_a_submission_is_found_by_its_words_and_its_names(database: Database, open_ledger: Any) -> None:
    store, first = open_ledger(), intent()
    store.write_intent(GENERATION_KEY, first, replace(DETAILS, prompt="Ein Fuß", item_key="fox"))
    for text in ("FUSS", "fox", "dag"):
        assert found(database, text, dags=("dag",)) == [-1]
    store.write(GENERATION_KEY, submitted(first))
    assert found(database, f"{submitted(first).generation_id} fuss", dags=("dag",)) == [-1]


def test_a_submission_that_was_not_made_is_not_found(database: Database, open_ledger: Any) -> None:
    add(database, [row(0, state="not_submitted", prompt="A fox"), row(1, prompt="A fox")])
    assert found(database, "fox") == [1]
    assert found(database, "g-0") == []
    store, first = open_ledger(), intent()
    store.register([GENERATION_KEY, "a.0"])
    assert found(database, "dag", dags=("dag",)) == []
    # One that was taken over: its words are not known.
    store.write(GENERATION_KEY, submitted(first))
    for text in ("dag", f"{submitted(first).generation_id} dag"):
        assert found(database, text, dags=("dag",)) == [-1], text


@pytest.mark.parametrize(
    ("text", "uncertain_only", "name"),
    [("a", False, "search"), ("", False, "latest"), ("a", True, "latest")],
)
def test_candidates_are_chosen_by_columns_of_an_index(text: str, uncertain_only: bool, name: str) -> None:
    """For another column MySQL would read the whole table."""
    search = Search(namespace="default", dag_ids=("ads",), text=text, uncertain=uncertain_only)
    (index,) = (index for index in submissions.indexes if index.name == f"seedance_submissions_{name}")
    candidates = search.candidates("mysql", 10)
    read = {each.name for each in iterate(candidates) if isinstance(each, Column)} & {*submissions.c.keys()}
    known = {*index.columns.keys(), *submissions.primary_key.columns.keys()}
    assert read - known == ({"generation_id"} if name == "search" else set())


def test_the_progress_of_a_render_does_not_change_the_index_of_searches() -> None:
    """A changed entry leaves a gap, and a larger index does not stay in the memory of the database."""
    (index,) = (index for index in submissions.indexes if index.name == "seedance_submissions_search")
    first = intent()
    seen = [LedgerEntry("generation", record=record).columns() for record in (first, submitted(first))]
    written = [{column.name: columns.get(column.name) for column in index.columns} for columns in seen]
    assert written[0] == written[1]
    assert {name for name, value in written[0].items() if value} == {"search_model"}


def test_uncertain_submissions(database: Database) -> None:
    now = utc_now()
    add(
        database,
        [
            row(0),
            uncertain(1),
            uncertain(2, state="intent", run_id="other"),
            # An item of a batch, whose row is older.
            uncertain(3, state="intent", intended_at=now),
            row(4, state="not_submitted"),
            row(5, state="submitted", created_at=now - timedelta(hours=1)),
        ],
    )
    assert sorted(found(database, uncertain=True)) == [1, 2]
    assert found(database, uncertain=True, run_id="other") == [2]
    states = {0: "succeeded", 1: "uncertain", 2: "uncertain", 3: "queued", 5: "running"}
    assert {number: render["state"] for number, render in renders(database).items()} == states


def test_the_transfer_records_where_files_are(database: Database) -> None:
    add(database, [row(0), row(1), row(2, api="fal", generation_id="g-1")])
    single = {"paths": ["s3://b/a.mp4", "s3://b/b.mp4"], "sha256": ["1", "2"], "generation_id": "g-0"}
    record_stored_files([generation("g-0")], single, "aws")
    batch = {"paths": ["/x/1.mp4"], "sha256": ["3"], "generation_id": None, "generation_ids": ["g-1"]}
    record_stored_files([generation("g-1"), generation("g-9")], batch, None)
    second = {"path": "s3://b/b.mp4", "sha256": "2", "conn_id": "aws"}
    assert stored_file(database, "default", "ads", "g-0", 1) == second
    assert stored_file(database, "default", "ads", "g-0", 2) is None
    assert stored_file(database, "default", "films", "g-0", 0) is None
    assert stored_file(database, "default", "ads", "g-9", 0) is None
    assert stored_file(database, "other", "ads", "g-0", 0) is None
    shown = {number: render["stored_files"] for number, render in renders(database).items()}
    assert shown == {0: ["s3://b/a.mp4", "s3://b/b.mp4"], 1: ["/x/1.mp4"], 2: []}


def test_a_shown_render(database: Database) -> None:
    times = {"created_at": NOON + timedelta(seconds=1), "intended_at": NOON + timedelta(seconds=2)}
    failure = {"failure": {"kind": "failed", "error": "GPU on fire"}}
    result = {"urls": ["https://media.example/1.mp4"], "expires_at": "2026-03-11T12:00:00+00:00"}
    add(
        database,
        [
            row(0, **times, result=result, item_key="heron"),
            row(1, **times, submitted_at=None, ended_at=None, result=None, record=None),
            row(2, intended_at=None, submitted_at=None, status=None, record=failure),
            row(3, record={"sealed_result": "…"}),
        ],
    )
    noon, later = "2026-03-10T12:00:00+00:00", "2026-03-10T12:00:02+00:00"
    expected: dict[str, Any] = {
        "key": ("heron", None, None),
        "state": ("succeeded", "succeeded", "failed"),
        "error": (None, None, "GPU on fire"),
        "started_at": (noon, later, noon),
        "ended_at": (noon, None, noon),
        "urls": (result["urls"], [], []),
        "expires_at": (result["expires_at"], None, None),
        "stored_files": ([], [], []),
    }
    shown = renders(database)
    assert {name: tuple(shown[number][name] for number in range(3)) for name in expected} == expected
    assert shown[3]["urls"] == []  # they are signed
    first = shown[0]
    assert (first["prompt"], first["model"], first["credits"]) == ("A heron, 0", "seedance-1-5-pro", 12)


def test_the_dags_of_a_time(database: Database) -> None:
    add(
        database,
        [row(0), row(1, dag_id="films", created_at=NOON - timedelta(seconds=1)), row(2, namespace="n")],
    )
    assert dag_ids(database, "default", NOON) == {"ads"}
    assert dag_ids(database, "default", NOON - timedelta(seconds=1)) == {"ads", "films"}
