"""
One identity of a task instance for the worker, callbacks, the Renders page and the commands (Airflow 3.4).

The worker has it from Airflow, which knows the Dag; the API server reads it from the metadata database.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from ledger.rows import add, row, uncertain
from sqlalchemy import select
from support import Store
from versions import REGIONS, needs

from airflow_provider_seedance.api_server import queries, totals
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.cli import main
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.ledger_store import LedgerStore
from airflow_provider_seedance.version_compat import COMMAND_WORDS, region_of, stored_coordinates
from api_server.metadata_database import VIDEO, MetadataDatabase

pytestmark = needs(REGIONS)

RUN = ("d", "r/1")
LOOP = "improve"
HERE = Scope(dag_id="d", run_id="r/1")


def looped(metadata: MetadataDatabase) -> str:
    return metadata.region(LOOP)


def mapped(metadata: MetadataDatabase) -> str:
    return metadata.region("video")


def mapped_in(metadata: MetadataDatabase, loop: str) -> str:
    return metadata.region("video", parent=loop, parent_index=3)


def cleared(metadata: MetadataDatabase) -> str:
    """Return the loop that replaces another, which had a mapped task."""
    first = looped(metadata)
    mapped_in(metadata, first)
    return metadata.region(LOOP, forked_from=first)


#: The region of a task instance, its index there, and the expected map index and pass.
PLACES = [
    pytest.param(lambda _: "", -1, -1, None, id="plain"),
    pytest.param(mapped, 2, 2, None, id="mapped"),
    pytest.param(mapped, -1, -1, None, id="not-expanded-yet"),
    pytest.param(lambda it: it.region("video", forked_from=mapped(it)), 2, 2, None, id="expanded-again"),
    pytest.param(looped, 3, -1, 3, id="in-a-loop"),
    pytest.param(lambda it: mapped_in(it, looped(it)), 2, 2, 3, id="mapped-in-a-loop"),
    pytest.param(lambda it: mapped_in(it, cleared(it)), 2, 2, 3, id="mapped-in-a-loop-that-was-cleared"),
]


def context_of(metadata: MetadataDatabase, ti_id: Any) -> dict[str, Any]:
    """Return the context that Airflow gives to the worker of a task instance."""
    regions = import_module("airflow.models.dynamic_region")
    coordinates = import_module("airflow.models.task_coordinates")
    session = metadata.session
    ti: Any = session.get(TaskInstance, ti_id)
    region_id, region_index = coordinates.get_public_region(ti.region_id, ti.region_index)
    runtime = SimpleNamespace(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=coordinates.get_public_map_index(ti, session=session),
        region_id=region_id,
        region_index=region_index,
    )
    ancestry = regions.load_region_ancestry([ti.region_id], dag_id="d", run_id="r/1", session=session)
    position = regions.loop_position(ancestry, ti.region_id, ti.region_index, LOOP)
    return {"ti": runtime} | ({"loop": SimpleNamespace(index=position[1])} if position else {})


@pytest.mark.parametrize(("region_of_task", "index", "map_index", "iteration"), PLACES)
def test_all_processes_agree(
    metadata: MetadataDatabase,
    ledger_database: Database,
    region_of_task: Callable[[MetadataDatabase], str],
    index: int,
    map_index: int,
    iteration: int | None,
) -> None:
    metadata.run()
    region = region_of_task(metadata)
    ti_id = metadata.task("video", VIDEO, map_index=index, region=region, try_number=1)
    context = context_of(metadata, ti_id)
    on_worker = TaskIdentity.of("default", context)
    loop_index = -1 if iteration is None else iteration
    assert (on_worker.map_index, on_worker.loop_index) == (map_index, loop_index)

    (task,) = queries.tasks_of(metadata.session, HERE)
    assert (task.map_index, task.iteration) == (map_index, iteration)
    add(ledger_database, [row(-1, **asdict(on_worker))])
    costs = totals.read_costs({RUN: [task]})
    assert costs is not None
    assert costs[RUN][task.place]["cost_usd"] == 0.07
    by_region = Scope(**vars(HERE) | {"task_id": "video", "map_index": map_index, "region": task.region})
    assert queries.find_task(metadata.session, by_region) == task

    claimed = stored_coordinates(*region_of(context["ti"]))
    found = metadata.session.scalars(select(TaskInstance.id).filter_by(task_id="video", **claimed)).all()
    assert found == [ti_id]

    add(ledger_database, [{**uncertain(-1, **asdict(on_worker)), "number": 2}])
    command = LedgerStore(ledger_database, on_worker, Store()).resolve_command("generation")
    main([*shlex.split(command)[len(COMMAND_WORDS) :], "--not-billed"])
