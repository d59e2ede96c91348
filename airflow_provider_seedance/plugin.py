"""
Airflow plugin: the Renders page, and the routes behind it.

Every process of Airflow loads the plugin, so importing this module imports nothing else of the package. The API
server builds the application at its first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Path of the routes, below Airflow's base URL.
PREFIX = "/seedance"

#: Path of the page of a run, below the run's page, as ``plugin/…``.
RUN_ROUTE = "seedance-run"

# Relative to Airflow's base URL, which may have a path.
_PAGE = "seedance/renders"
_RUN = f"{_PAGE}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}"
_TASK = f"{_RUN}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}"
# Tasks of this package, also of subclasses and of ``@task.seedance_video``: they alone have this template field. Airflow
# below 3.4 ignores it. What it reads of a Dag or a run says nothing about their tasks.
_OUR_TASKS = {"applies_to": {"task.template_fields": ["seedance_conn_id"]}}
_VIEW = {
    "name": "Renders",
    "icon": "seedance/static/icon.svg",
    "icon_dark_mode": "seedance/static/icon-dark.svg",
}


class LazyApp:
    """ASGI application that is imported and built at the first request."""

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if self._app is None:
            from airflow_provider_seedance.api_server.app import build  # at the first request

            self._app = build()
        await self._app(scope, receive, send)


class SeedancePlugin(AirflowPlugin):  # type: ignore[misc, unused-ignore]  # untyped in some versions of Airflow
    """The Renders page: a tab of the Dag run and of the task instance, and an entry in the navigation."""

    name = "seedance"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "seedance"}]
    external_views: Any = [
        {**_VIEW, "href": _RUN, "destination": "dag_run", "url_route": RUN_ROUTE},
        {**_VIEW, **_OUR_TASKS, "href": _TASK, "destination": "task_instance", "url_route": "seedance-task"},
        {**_VIEW, "href": _PAGE, "destination": "nav", "category": "browse", "url_route": "seedance-renders"},
    ]
