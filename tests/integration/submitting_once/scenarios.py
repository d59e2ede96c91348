"""
The Dags of the scenarios: one file for all of them, copied into the Dags folder and parsed once.

The arguments of a render are in the ``conf`` of the Dag run, so that a scenario costs a run and no
Dag of its own: ``arguments`` of the operator, those that differ in ``later`` tries, and where the first
try is to stand still (``pause_at``) until a test kills it, or removes the file that says so.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoOperator,
    SeedreamGenerateImageOperator,
)

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk.definitions.context import Context


class _FromConf:
    """Operator that takes its arguments from the conf of the Dag run, and stands still where that says so."""

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        self._take_arguments(context)
        super().render_template_fields(context, jinja_env)  # type: ignore[misc]

    def execute(self, context: Context) -> Any:
        self._take_arguments(context, templates=False)  # a mapped operator comes here without the above
        self._stand_still(context, "start")
        return super().execute(context)  # type: ignore[misc]

    def execute_complete(self, context: Context, *args: Any, **kwargs: Any) -> Any:
        self._stand_still(context, "resume")
        return super().execute_complete(context, *args, **kwargs)  # type: ignore[misc]

    def _run(self, context: Context) -> Any:
        run = super()._run(context)  # type: ignore[misc]
        wait_for = run._wait_for

        def wait_for_after_standing_still(submitted: Any) -> Any:
            self._stand_still(context, "id")
            return wait_for(submitted)

        run._wait_for = wait_for_after_standing_still
        return run

    def _take_arguments(self, context: Context, *, templates: bool = True) -> None:
        conf = context["dag_run"].conf or {}
        values = dict(conf.get("arguments", {}))
        if context["ti"].try_number > 1:
            values.update(conf.get("later", {}))
        for name, value in values.items():
            if templates or name not in self.template_fields:  # type: ignore[attr-defined]
                setattr(self, name, value)

    def _stand_still(self, context: Context, point: str) -> None:
        conf = context["dag_run"].conf or {}
        if conf.get("pause_at") == point and context["ti"].try_number == 1:
            paused = Path(conf["paused"])
            paused.touch()
            while paused.exists():
                time.sleep(0.1)


class Video(_FromConf, SeedanceGenerateVideoOperator):
    pass


class Image(_FromConf, SeedreamGenerateImageOperator):
    pass


COMMON: dict[str, Any] = {
    "schedule": None,
    "max_active_runs": 500,
    "max_active_tasks": 500,
    "default_args": {"retry_delay": timedelta(0)},
}

for retries in (0, 1, 2):
    with DAG(f"video_{retries}", **COMMON):
        Video(task_id="render", prompt="from conf", retries=retries)
    with DAG(f"image_{retries}", **COMMON):
        Image(task_id="render", prompt="from conf", retries=retries)

with DAG("limited", dagrun_timeout=timedelta(hours=1), **COMMON):
    Video(task_id="render", prompt="from conf")

with DAG("chain", **COMMON):

    @task
    def upload(result: dict[str, Any], ti: Any = None) -> str:
        if ti.try_number == 1:
            raise ValueError("the store is down")
        return result["generation_id"]

    upload(Video(task_id="render", prompt="from conf").output)

for retries in (0, 1):
    with DAG(f"mapped_{retries}", **COMMON):

        @task
        def items(ti: Any = None, dag_run: Any = None) -> list[str]:
            """A query without an ORDER BY."""
            found: list[str] = dag_run.conf["items"]
            return found if ti.try_number == 1 else dag_run.conf["items_later"] or found[::-1]

        Video.partial(task_id="render", retries=retries, seedance_conn_id="ark").expand(prompt=items())
