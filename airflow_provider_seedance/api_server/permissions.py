"""
Who may see what: the only file of the page that knows Airflow's internal access checks.

Whoever may not read a Dag, its runs, its task instances and its XComs gets 403, and learns no more from it than
whether the answer was no: a Dag that does not exist is refused in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dag import DagModel
from fastapi import Depends
from fastapi.params import Depends as Dependency

__all__ = ["MAY_SEE_RENDERS", "GetUserDep", "readable"]

#: What a render is read from: all of it must be readable.
_ENTITIES = (DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)

#: Dependencies of every route with a ``dag_id`` in its path.
MAY_SEE_RENDERS: list[Dependency] = [
    Depends(requires_access_dag(method="GET", access_entity=entity)) for entity in _ENTITIES
]


def readable(dag_ids: Iterable[str], user: GetUserDep) -> set[str]:
    """Return those of the Dags whose renders the user may see."""
    manager = get_auth_manager()
    permitted = manager.get_authorized_dag_ids(user=user, method="GET")
    return {dag_id for dag_id in set(dag_ids) & set(permitted) if _may_see(dag_id, user)}


def _may_see(dag_id: str, user: GetUserDep) -> bool:
    manager = get_auth_manager()
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)
        for entity in _ENTITIES
    )
