"""
Access checks: the only module of the Renders page that knows Airflow's internal ones.

A user needs read access to a Dag, its runs, its task instances and its XComs. The refusal is the same 403 for a Dag
that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dag import DagModel
from fastapi import Depends
from fastapi.params import Depends as Dependency

__all__ = ["CAN_READ_RENDERS", "GetUserDep", "readable_dag_ids"]

_ENTITIES = (DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)

#: Dependencies of every route with a ``dag_id`` in its path.
CAN_READ_RENDERS: list[Dependency] = [
    Depends(requires_access_dag(method="GET", access_entity=entity)) for entity in _ENTITIES
]


def readable_dag_ids(dag_ids: Iterable[str], user: GetUserDep) -> set[str]:
    """Return the Dags whose renders the user may read."""
    manager = get_auth_manager()

    def can_read(dag_id: str) -> bool:
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        return all(
            manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)
            for entity in _ENTITIES
        )

    permitted = set(dag_ids) & manager.get_authorized_dag_ids(user=user, method="GET")
    return {dag_id for dag_id in permitted if can_read(dag_id)}
