"""
The Airflow of all tests that need no configuration of their own.

An Airflow takes half a minute of CPU time to start, so its tests are in one folder. Their connections are stored in its
database, each test module under ids of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import TestAirflow


@pytest.fixture(scope="package")
def airflow(tmp_path_factory: pytest.TempPathFactory, database_template: Path) -> Iterator[TestAirflow]:
    """The shared Airflow, started. Leave it as you found it: restart what you kill."""
    home = tmp_path_factory.mktemp("shared")
    with TestAirflow(
        home=home / "airflow", dags_folder=home / "dags", connections={}, database_template=database_template
    ) as running:
        yield running
