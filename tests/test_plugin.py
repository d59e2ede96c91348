"""The plugin that every process of Airflow loads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from airflow.api_fastapi.core_api.datamodels.tasks import TaskResponse
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from versions import SCOPED_VIEWS, needs

from airflow_provider_seedance.get_provider_info import get_provider_info
from airflow_provider_seedance.operators.batch import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)
from airflow_provider_seedance.plugin import PREFIX, LazyApp, SeedancePlugin
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from airflow_provider_seedance.version_compat import serialized

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
    views = SeedancePlugin.external_views
    assert [view["destination"] for view in views] == ["dag_run", "task_instance", "nav"]
    assert len({view["url_route"] for view in views}) == 3
    # Relative to the base address of Airflow, which may have a path.
    assert all(not view["href"].startswith("/") for view in views)
    (mounted,) = SeedancePlugin.fastapi_apps
    assert mounted["url_prefix"] == PREFIX
    assert isinstance(mounted["app"], LazyApp)


class Trailer(SeedanceGenerateVideoOperator):
    """An operator of a user, with a template field of its own."""

    template_fields = ("cut", *SeedanceGenerateVideoOperator.template_fields)
    cut = "long"


def test_the_tab_applies_to_every_kind_of_our_tasks_and_to_no_other() -> None:
    @task.seedance_video
    def decorated() -> str:
        return "A boat"

    with DAG("dag", schedule=None) as dag:
        EmptyOperator(task_id="other")
        SeedanceGenerateVideoOperator(task_id="video", prompt="A boat")
        SeedanceGenerateVideoOperator.partial(task_id="mapped").expand(prompt=["A boat", "A lamp"])
        SeedreamGenerateImageOperator(task_id="image", prompt="A boat")
        SeedanceGenerateVideoBatchOperator(task_id="batch", requests=["A boat"])
        SeedanceGenerationSensor(task_id="sensor", generation_id="gen-1")
        SeedanceToObjectStorageOperator(task_id="store", generation="gen-1", destination="/tmp/a.mp4")
        Trailer(task_id="trailer", prompt="A boat")
        decorated()
    ((path, values),) = SeedancePlugin.external_views[1]["applies_to"].items()
    root, field = path.split(".")
    assert root == "task"
    responses = [TaskResponse.model_validate(one) for one in serialized(dag).tasks]
    found = {one.task_id for one in responses if set(values) & set(getattr(one, field))}
    assert found == {one.task_id for one in responses} - {"other"}
    assert len(found) == 8


@needs(SCOPED_VIEWS)
def test_airflow_can_evaluate_where_the_tab_applies(caplog: pytest.LogCaptureFixture) -> None:
    """It withholds a view whose path names no field, and shows one that it cannot evaluate everywhere."""
    from airflow import plugins_manager

    for view in SeedancePlugin.external_views:
        assert plugins_manager._validate_applies_to("seedance", dict(view), "external view")
    assert caplog.text == ""
