"""The Airflow of the example Dags, which the Renders page is looked at on, too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import TestAirflow
from renders_stage import AUTH_MANAGER, EXAMPLES, TWO_USERS


@pytest.fixture(scope="package")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the example Dags' files."""
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="package")
def examples(
    tmp_path_factory: pytest.TempPathFactory, database_template: Path, emulator: Any, stored: Path
) -> Iterator[TestAirflow]:
    """An Airflow that has the example Dags, and a user who may not see every Dag."""
    home = tmp_path_factory.mktemp("examples")
    dags = home / "dags"
    shutil.copytree(EXAMPLES, dags, ignore=shutil.ignore_patterns("__pycache__"))
    (dags / "two_users.py").write_text(AUTH_MANAGER)
    # Nothing is polled while a busy machine takes a minute to resume a task that was called back.
    calling = dags / "example_seedance_callbacks.py"
    polled = calling.read_text()
    unpolled = polled.replace("use_callback=True", "use_callback=True, poll_interval=86400")
    assert unpolled != polled
    calling.write_text(unpolled)
    made = TestAirflow(
        home=home / "airflow",
        dags_folder=dags,
        connections={
            "seedance_default": emulator.connection_json("seedanceapi-v2"),
            "seedance_v1": emulator.connection_json("seedanceapi-v1"),
            "seedance_ark": emulator.connection_json("ark"),
            "seedance_images": emulator.connection_json("seedance2api"),
            "seedance_primary": emulator.connection_json("runbase"),
            "seedance_fallback": emulator.connection_json("seedanceapi-v1"),
        },
        env={"SEEDANCE_EXAMPLE_DESTINATION": stored.as_uri()},
        config={("core", "dags_are_paused_at_creation"): "True", **TWO_USERS},
        database_template=database_template,
    )
    made.environment["AIRFLOW_CONN_SEEDANCE_CALLBACKS"] = emulator.connection_json(
        "seedanceapi-v1", callback_base_url=made.url, callback_secret="a secret of the test, and long"
    )
    # The account of the first of two services has no credits.
    emulator.fault("refuse", "submit", "runbase", "A paper lantern*", times=None, status=402)
    with made as airflow:
        yield airflow
