"""
What Airflow's web interface gets from this package: the Renders page, and the routes behind it.

Every process of Airflow loads the plugin, each task process too, so that importing this module loads nothing:
the application is built by the API server, at its first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Where the routes are, below the address of Airflow.
PREFIX = "/seedance"

#: Where Airflow shows the page of a run, below the address of the run, as ``plugin/…``.
RUN_ROUTE = "seedance-run"

# Relative: Airflow's pages name their own address as the base, which may have a path of its own.
_PAGE = "seedance/renders"
_RUN = f"{_PAGE}?dag_id={{DAG_ID}}&run_id={{RUN_ID}}"
_ICONS = {"icon": "seedance/static/icon.svg", "icon_dark_mode": "seedance/static/icon-dark.svg"}

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class LazyApp:
    """The ASGI application of this package, which is imported and built when the first request comes."""

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if self._app is None:
            from airflow_provider_seedance.api_server.app import build

            self._app = build()
        await self._app(scope, receive, send)


class SeedancePlugin(AirflowPlugin):  # type: ignore[misc, unused-ignore]  # untyped in some versions of Airflow
    """The Renders page: a tab on the Dag run and on the task instance, and an entry in the navigation."""

    name = "seedance"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "seedance"}]
    external_views = [
        {
            "name": "Renders",
            "href": _RUN,
            "destination": "dag_run",
            "url_route": RUN_ROUTE,
            **_ICONS,
        },
        {
            "name": "Renders",
            "href": f"{_RUN}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}",
            "destination": "task_instance",
            "url_route": "seedance-task",
            **_ICONS,
        },
        {
            "name": "Renders",
            "href": _PAGE,
            "destination": "nav",
            "category": "browse",
            "url_route": "seedance-renders",
            **_ICONS,
        },
    ]
