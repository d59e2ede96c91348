"""``estimate`` of a Dag, over a range of dates."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from versions import forget_bundles

from airflow_provider_seedance.cli import dag_requests
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator

Run = Callable[..., tuple[Any, str]]
InDag = Callable[..., Any]

# Airflow 3.1 looks into its own old modules where it makes its bundles.
pytestmark = pytest.mark.filterwarnings("ignore:The `airflow.operators")

HEAD = """
from datetime import datetime
from airflow.sdk import DAG, task, task_group
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator as Batch
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoOperator as Video
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator as Image

@task
def prompts():
    return ["a", "b"]

with DAG(
    "estimated", schedule="@daily", start_date=datetime(2026, 1, 1), params={"seconds": 8, "sound": None}
) as dag:
    many = prompts()
"""


@pytest.fixture
def in_dag(tmp_path: Path, run: Run) -> InDag:
    """Estimate tasks that are written as they stand in a Dag file: ``in_dag("Video(…)", "--from", …)``."""

    def estimate(
        tasks: str, *line: str, api: str = "seedanceapi-v1", output: str = "json", code: int = 0
    ) -> Any:
        path = tmp_path / "estimated.py"
        path.write_text(HEAD + textwrap.indent(textwrap.dedent(tasks), "    "))
        given = () if "--conn-id" in line or api == "" else ("--api", api)
        line = ("--dag", "estimated", "--file", str(path), *given, *line, "--output", output)
        shown, printed = run("estimate", *line, code=code)
        return (shown, printed) if code else shown

    return estimate


VIDEO = "Video(task_id='v', prompt='a')"
DAYS = ("--from", "2026-01-01", "--to", "2026-01-02")

#: Tasks, and the renders and the credits of one run; by the price table a render of 4 s costs 14, of 8 s 28.
COUNTED = {
    "Video(task_id='v', prompt='a {{ ds }}', duration='{{ params.seconds }}')": (1, 28),
    "Video(task_id='v', prompt='{{ ti.xcom_pull(1) }}', images='{{ ti.xcom_pull(1) }}', duration=4)": (1, 14),
    "Video(task_id='v', prompt=many, images=[many], seed='{{ ti.xcom_pull(1) }}', duration=4)": (1, 14),
    "Video(task_id='v', prompt='a', duration='{{ 4 if ds_nodash > \"2025\" and run_id and ts else 8 }}')": (
        1,
        14,
    ),
    "Video(task_id='v', prompt='a', duration='{{ macros.ds_add(ds, 1)[-1] * 0 ~ 4 }}')": (1, 14),
    "Video(task_id='v', prompt='a', duration='{{ var.value.get(\"none\", 4) }}')": (1, 14),
    "Video.partial(task_id='v', duration=4).expand(prompt=['a {{ ds }}', 'b'])": (2, 28),
    "Video.partial(task_id='v', prompt='a').expand(duration=[4, '{{ params.seconds }}', 8])": (3, 70),
    "Video.partial(task_id='v').expand(prompt=['a', 'b'], duration=[4, 8])": (4, 84),
    "Video.partial(task_id='v', duration=4).expand(prompt=[])": (0, 0),
    "Video.partial(task_id='v').expand_kwargs([{'prompt': 'a', 'duration': 4}, {'prompt': 'b'}])": (2, 42),
    "Video.partial(task_id='v', duration=4).expand(prompt=['a', many])": (2, 28),
    "Batch(task_id='b', requests=['a', {'prompt': 'b', 'duration': 8}], duration=4)": (2, 42),
    "Batch(task_id='b', requests='{{ [\"a\"] * 3 }}', duration='{{ params.seconds }}')": (3, 84),
    "Batch.partial(task_id='b', duration=4).expand(requests=[['a'], ['b', 'c']])": (3, 42),
    "Batch(task_id='b', requests=['a'], dry_run=True)": (0, None),
    "Video(task_id='v', prompt='a', duration=4, seedance_conn_id='{{ ti.map_index }}')": (1, 14),
    """
    @task.seedance_video(duration=4)
    def clip():
        return "a"
    clip()
    """: (1, 14),
    """
    @task.seedance_video(duration=4)
    def clip(n):
        return "a"
    clip.expand(n=[1, 2, 3])
    """: (3, 42),
    """
    @task_group
    def group(text):
        Video(task_id="v", prompt=text, duration=4)
    group("a")
    """: (1, 14),
    # Templates become values.
    """
    dag.render_template_as_native_obj = True
    Batch(task_id="b", requests='{{ [1, 2] | map("string") | list }}', duration=4)
    """: (2, 28),
    # The output of a Dag file goes to standard error.
    "print('hello')\nVideo(task_id='v', prompt='a', duration=4)": (1, 14),
}


@pytest.mark.parametrize("tasks", COUNTED)
def test_requests_of_a_dag(tasks: str, in_dag: InDag) -> None:
    renders, credits = COUNTED[tasks]
    found = in_dag(tasks, *DAYS)
    assert "unknown until" not in " ".join(found["notes"])
    assert sum(one["renders"] for one in found["estimates"]) == 2 * renders
    assert sum(one["credits"] for one in found["estimates"]) == 2 * (credits or 0)
    assert not any(one["refused"] or one["unknown"] for one in found["estimates"])


@pytest.mark.parametrize(
    "tasks",
    [
        "Video(task_id='v', prompt='a', duration='{{ ti.xcom_pull(task_ids=1) }}')",
        "Video(task_id='v', prompt='a', duration=many)",
        "Video(task_id='v', prompt='a', resolution='{{ dag_run.conf.resolution }}')",
        "Video(task_id='v', prompt='a', duration='{{ var.value.no_such_variable }}')",
        "Video(task_id='v', prompt='a', duration='{{ undefined.name }}')",
        "Video(task_id='v', prompt='a', duration='{{ broken')",
        "Video.partial(task_id='v').expand_kwargs([many])",
    ],
)
def test_a_price_that_is_unknown_until_the_task_runs(tasks: str, in_dag: InDag) -> None:
    found = in_dag(f"{tasks}\nVideo(task_id='known', prompt='a', duration=4)")
    (one,) = found["estimates"]
    assert (one["renders"], one["unknown"], one["credits"]) == (2, 1, None)
    assert one["at_least"] == {"credits": 14, "cost_usd": 0.07}
    assert any("v: " in note and "price is unknown" in note for note in found["notes"])


@pytest.mark.parametrize(
    "tasks",
    [
        "Video.partial(task_id='v', duration=4).expand(prompt=many)",
        "Video.partial(task_id='v').expand(prompt=many, duration=[4, 8, 4])",
        "Video.partial(task_id='v', prompt='a').expand_kwargs(many)",
        """
        @task_group
        def group(text):
            Video(task_id="v", prompt=text, duration=4)
        group.expand(text=["a", "b"])
        """,
        """
        @task.seedance_video(duration=4)
        def v(text):
            return text
        v.expand(text=many)
        """,
        "Video.partial(task_id='v').expand(prompt=['a'] * 101, duration=[4] * 100)",
        "Batch.partial(task_id='v').expand(requests=many)",
    ],
)
def test_mapped_tasks_of_unknown_number_are_in_no_total(tasks: str, in_dag: InDag) -> None:
    found = in_dag(f"{textwrap.dedent(tasks)}\nVideo(task_id='known', prompt='a', duration=4)", *DAYS)
    assert sum(one["renders"] for one in found["estimates"]) == 2
    notes = " ".join(found["notes"])
    assert "not in the totals, because their number is unknown until they run: " in notes
    assert "how many renders is unknown until it runs" in notes or "mapped to more than 10000" in notes


def test_unknown_requests_of_a_batch_are_in_no_total(in_dag: InDag) -> None:
    tasks = """
    Batch(task_id="from_xcom", requests=many)
    Batch(task_id="to_be_written", requests="/no/such/{{ ds }}.jsonl")
    Batch(task_id="wrong", requests=[""])
    Video(task_id="known", prompt="a", duration=4)
    """
    found = in_dag(tasks)
    assert [one["renders"] for one in found["estimates"]] == [1]
    notes = " ".join(found["notes"])
    assert "number is unknown until they run: from_xcom, to_be_written, wrong" in notes
    assert "there is no such file" in notes
    assert "empty prompt" in notes


def test_each_connection_has_its_own_prices(in_dag: InDag, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("seedanceapi-v1", "ark"):
        connection = {"conn_type": "seedance", "password": "k", "extra": {"api": name}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name[:4].strip('-').upper()}", json.dumps(connection))
    tasks = "Video.partial(task_id='v', prompt='a').expand(seedance_conn_id=['seed', 'ark', 'ark'])"
    found = in_dag(tasks, api="")
    assert [(one["api"], one["renders"], one["unknown"]) for one in found["estimates"]] == [
        ("seedanceapi-v1", 1, 0),
        ("ark", 2, 2),
    ]
    assert [one["api"] for one in in_dag(tasks, "--conn-id", "ark")["estimates"]] == ["ark"]
    assert [one["renders"] for one in in_dag(tasks)["estimates"]] == [3]


def test_an_image_operator_makes_image_requests(in_dag: InDag) -> None:
    tasks = "Image(task_id='i', prompt='a')"
    assert "makes videos only" in in_dag(tasks)["estimates"][0]["refused"][0]["error"]
    assert in_dag(tasks, api="ark")["estimates"][0]["renders"] == 1


def test_a_refusal_of_each_day_is_printed_once(in_dag: InDag) -> None:
    output = in_dag("Video(task_id='v', prompt='a', duration=5)", *DAYS, output="table")
    assert output.count("refused: v: ") == 1
    assert "(2 times)" in output


def test_the_table_of_a_dag(in_dag: InDag) -> None:
    tasks = "Video.partial(task_id='v', resolution='480p', prompt='a').expand(duration=[4, 8])"
    output = in_dag(tasks, output="table")
    assert "480p" in output
    assert "$0.11" in output
    assert "prices as published by seedanceapi.org v1 (https://seedanceapi.org/docs/v1, 2026-" in output
    assert "Nothing was sent, nothing is billed." in output


def test_params_of_a_task_win_and_those_without_a_value_are_unknown(in_dag: InDag) -> None:
    tasks = """
    from airflow.sdk import Param
    dag.params["needed"] = Param(type="integer")
    Video(task_id="own", prompt="a", duration="{{ params.seconds }}", params={"seconds": 4})
    Video(task_id="needs", prompt="a", duration="{{ params.needed }}")
    """
    (one,) = in_dag(tasks)["estimates"]
    assert (one["at_least"]["credits"], one["unknown"]) == (14, 1)


IMPORTING = """
    from {module} import SECONDS
    Video(task_id="v", prompt="a", duration=SECONDS)
"""


def test_dag_files_import_modules_of_their_folder(in_dag: InDag, tmp_path: Path, run: Run) -> None:
    (tmp_path / "beside_the_estimated.py").write_text("SECONDS = 4\n")
    tasks = IMPORTING.format(module="beside_the_estimated")
    assert in_dag(tasks)["estimates"][0]["credits"] == 14
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "other.py").write_text(HEAD.replace("estimated", "other", 1) + tasks)
    line = ("--dag", "other", "--file", str(tmp_path), "--api", "seedanceapi-v1", "--output", "json")
    found, _ = run("estimate", *line)
    assert found["estimates"][0]["credits"] == 14


@pytest.fixture
def own_bundles() -> Iterator[None]:
    """Dag bundles as the test configures them."""
    forget_bundles()
    yield
    forget_bundles()


@pytest.mark.usefixtures("own_bundles")
def test_a_dag_of_the_bundles(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dags"
    (folder / "deep").mkdir(parents=True)
    (folder / "shared_by_bundle.py").write_text("SECONDS = 4\n")
    (folder / "deep" / "estimated.py").write_text(HEAD + IMPORTING.format(module="shared_by_bundle"))
    (folder / "broken.py").write_text("from airflow.sdk import DAG\nraise ValueError('half written')\n")
    bundle = {
        "name": "b",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    for line in ([], ["--file", str(folder / "deep" / "estimated.py")]):
        api = ("--api", "seedanceapi-v1", "--output", "json")
        found, _ = run("estimate", "--dag", "estimated", *api, *line)
        assert found["estimates"][0]["credits"] == 14
    _, output = run("estimate", "--dag", "nope", "--api", "ark", code=2)
    assert "There is no Dag 'nope' in the bundles" in output
    assert "ValueError: half written" in output


@pytest.mark.usefixtures("own_bundles")
def test_bundles_that_cannot_be_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", '[{"name": "b", "classpath": "no.such"}]'
    )
    _, printed = run("estimate", "--dag", "d", "--api", "ark", code=2)
    assert "could not be read" in printed


def test_nothing_is_sent(in_dag: InDag, services: SeedanceEmulator, connect: Callable[..., None]) -> None:
    connect("seedanceapi-v1")
    in_dag(f"{VIDEO}\nBatch(task_id='b', requests=['a'])", *DAYS, api="")
    assert services.ledger.requests == []


@pytest.mark.parametrize(
    ("schedule", "since", "until", "runs"),
    [
        ("@daily", "2026-01-01", "2026-01-01", 1),
        ("@daily", "2026-01-01", "2026-01-31", 31),
        ("@daily", "2026-01-01T00:00", "2026-01-02T00:00", 2),
        ("@daily", "2026-01-01T01:00", "2026-01-02T23:00", 1),
        ("@daily", "2027-01-01", "2027-01-02", 2),
        ("@hourly", "2026-01-01", "2026-01-02", 48),  # the last day with all its hours
    ],
)
def test_both_ends_of_a_range_are_included(
    schedule: str, since: str, until: str, runs: int, in_dag: InDag
) -> None:
    tasks = f"dag.timetable = DAG('x', schedule='{schedule}').timetable\n{VIDEO}"
    found = in_dag(tasks, "--from", since, "--to", until)
    assert found["estimates"][0]["renders"] == runs
    assert found["notes"][0] == f"{runs} run{'s' if runs > 1 else ''} of estimated"


@pytest.mark.parametrize(
    ("tasks", "line", "output"),
    [
        ("", [], "No task of estimated generates anything"),
        (VIDEO, ["--duration", "4"], "--duration cannot be used with --dag"),
        (f"dag.timetable = DAG('x', schedule=None).timetable\n{VIDEO}", DAYS, "no periodic"),
        (VIDEO, ["--from", "2026-01-01", "--to", "12:30"], "take dates"),
        (VIDEO, ["--from", "2026-01", "--to", "2026-02"], "take dates"),
        ("raise ValueError('broken')", [], "ValueError: broken"),
    ],
)
def test_dags_that_cannot_be_estimated(tasks: str, line: Sequence[str], output: str, in_dag: InDag) -> None:
    shown, printed = in_dag(tasks, *line, code=2)
    assert output in printed
    assert shown == ""


def test_a_range_with_too_many_runs(in_dag: InDag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_requests, "MAX_RUNS", 10)
    in_dag(VIDEO, "--from", "2026-01-01", "--to", "2026-01-10")
    _, printed = in_dag(VIDEO, "--from", "2026-01-01", "--to", "2026-01-11", code=2)
    assert "more than 10 runs" in printed


def test_the_environment_is_the_service_of_the_default_connection(
    in_dag: InDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEDANCE_API_KEY", "k")
    monkeypatch.setenv("SEEDANCE_API", "seedanceapi-v1")
    found = in_dag("Video(task_id='v', prompt='a', duration=4)", api="")
    assert (found["estimates"][0]["api"], found["estimates"][0]["credits"]) == ("seedanceapi-v1", 14)
