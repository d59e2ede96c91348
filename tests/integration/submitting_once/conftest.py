"""
The airflow of the scenarios, and their running side by side.

A situation waits most of its time for Airflow, so several are played at once, each in a thread of its
own: every test function marked ``side_by_side`` takes only ``airflow`` and parameters, touches nothing but
its own renders, and is started together with the first of them; those that are ``long`` start first. A test without
the mark has the airflow to itself, after them.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from harness import TestAirflow
from versions import STATE_STORE, require

from airflow_provider_seedance.testing import SeedanceEmulator

from .airflow_fixture import API_KEY, SERVICES, AirflowFixture, conn

HERE = Path(__file__).parent

#: Situations at a time: enough to keep two cores busy, and few enough for slow ones.
AT_ONCE = 8

#: Task processes at a time: no situation may have to wait for another one to end.
WORKERS = 32

_pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="situation")
_played: dict[str, Future[None]] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "side_by_side: played at the same time as others of its kind")


def _is_short(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("side_by_side")
    return not (mark and mark.kwargs.get("long"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those that run alone come last, so that no test waits for the end of all others."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ours = sorted(
        (items[place] for place in places), key=lambda item: item.get_closest_marker("side_by_side") is None
    )
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Take the outcome of a test that runs in the background; let any other one run alone."""
    if pyfuncitem.get_closest_marker("side_by_side") is None:
        wait(_played.values())
        return None
    if not _played:
        airflow = pyfuncitem.funcargs["airflow"]
        for item in sorted(pyfuncitem.session.items, key=_is_short):
            skipped = any(mark.args[0] for mark in item.iter_markers("skipif"))
            if item.path.is_relative_to(HERE) and item.get_closest_marker("side_by_side") and not skipped:
                assert isinstance(item, pytest.Function)
                parameters = item.callspec.params if hasattr(item, "callspec") else {}
                _played[item.nodeid] = _pool.submit(item.obj, airflow=airflow, **parameters)
    _played[pyfuncitem.nodeid].result()
    return True


@pytest.fixture(scope="package")
def airflow(tmp_path_factory: pytest.TempPathFactory, database_template: Path) -> Iterator[AirflowFixture]:
    """A private Airflow with two emulators; see :class:`AirflowFixture`."""
    require(STATE_STORE)
    home = tmp_path_factory.mktemp("scenarios")
    with (
        SeedanceEmulator(
            key=API_KEY, speed=60, render_seconds=160_000, media=False, concurrency=1000
        ) as rendering,
        SeedanceEmulator(key=API_KEY, speed=0.001, media=False) as queueing,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))  # in use, but without a listener
        away = {**rendering.connection("ark"), "host": f"http://127.0.0.1:{closed.getsockname()[1]}/api/v3"}
        connections = {conn(name): rendering.connection_json(name) for name in SERVICES}
        connections |= {"ark_queue": queueing.connection_json("ark"), "unreachable": json.dumps(away)}
        (home / "dags").mkdir()
        shutil.copy(HERE / "scenarios.py", home / "dags")
        with TestAirflow(
            home=home,
            dags_folder=home / "dags",
            connections=connections,
            database_template=database_template,
            config={
                ("core", "parallelism"): str(WORKERS),
                ("workers", "execution_api_retry_wait_max"): "2",
            },
        ) as airflow:
            for dag_id in ("video_0", "limited", "chain", "mapped_1"):
                airflow.wait_parsed(dag_id)
            running = AirflowFixture(airflow=airflow, rendering=rendering, queueing=queueing, folder=home)
            try:
                yield running
            finally:
                running.stopped.set()
                _pool.shutdown(cancel_futures=True)
