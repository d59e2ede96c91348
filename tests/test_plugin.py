"""The plugin that every process of Airflow loads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from airflow_provider_seedance.get_provider_info import get_provider_info
from airflow_provider_seedance.plugin import PREFIX, LazyApp, SeedancePlugin

ROOT = Path(__file__).parents[1]


def test_the_plugin_is_registered_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["airflow.plugins"] == {
        "seedance": "airflow_provider_seedance.plugin:SeedancePlugin"
    }
    assert "plugins" not in get_provider_info()


def test_airflow_accepts_the_plugin() -> None:
    from airflow.plugins_manager import is_valid_plugin

    try:
        valid = is_valid_plugin(SeedancePlugin)
    except TypeError:  # Airflow 3.1 has another argument
        pytest.skip("this Airflow checks plugins in another way")
    assert valid
    assert [view["destination"] for view in SeedancePlugin.external_views] == [
        "dag_run",
        "task_instance",
        "nav",
    ]
    routes = [view["url_route"] for view in SeedancePlugin.external_views]
    assert len(set(routes)) == 3
    # Relative to the base address of Airflow, which may have a path.
    assert all(not view["href"].startswith("/") for view in SeedancePlugin.external_views)
    (mounted,) = SeedancePlugin.fastapi_apps
    assert mounted["url_prefix"] == PREFIX
    assert isinstance(mounted["app"], LazyApp)
