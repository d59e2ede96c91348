"""
Access checks: the only module of the pages that knows Airflow's internal ones.

A user needs read access to a Dag, its runs, task instances and XComs; to settle a submission or to render again, the
right to edit task instances; to choose, what Airflow asks for. A Dag that does not exist is refused by the same 403.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dag import DagModel
from airflow.providers.common.compat.sdk import conf
from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency

__all__ = ["CAN_EDIT_RENDERS", "CAN_READ_RENDERS", "GetUserDep", "can_answer", "can_edit", "readable_dag_ids"]

_ENTITIES = (DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)

#: Dependencies of every route with a ``dag_id`` in its path.
CAN_READ_RENDERS: list[Dependency] = [
    Depends(requires_access_dag(method="GET", access_entity=entity)) for entity in _ENTITIES
]


def same_origin(request: Request) -> None:
    """
    Refuse a request that another site may have made a browser send, with the cookie of its user.

    A browser names the origin of every request that changes something. Other programs send a token in a header, which
    no site can make a browser send.
    """
    origin = request.headers.get("Origin")
    own = {request.headers.get("Host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    if origin is not None:
        if urlsplit(origin).netloc in own - {None, ""}:
            return
    elif request.headers.get("Authorization", "").startswith("Bearer "):
        return
    raise HTTPException(403, "The request comes from another site.")


#: Dependencies of the routes that change something of a Dag.
CAN_EDIT_RENDERS: list[Dependency] = [
    Depends(same_origin),
    *CAN_READ_RENDERS,
    Depends(requires_access_dag(method="PUT", access_entity=DagAccessEntity.TASK_INSTANCE)),
]


def readable_dag_ids(dag_ids: Iterable[str], user: GetUserDep) -> set[str]:
    """Return the Dags whose renders the user may read."""
    permitted = set(dag_ids) & get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    return {dag_id for dag_id in permitted if _is_authorized(dag_id, user, "GET", *_ENTITIES)}


def can_edit(dag_id: str, user: GetUserDep) -> bool:
    """Return whether the user may edit the task instances of a Dag."""
    return _is_authorized(dag_id, user, "PUT", DagAccessEntity.TASK_INSTANCE)


def can_answer(dag_id: str, assigned_users: Collection[str], user: GetUserDep) -> bool:
    """Return whether Airflow takes the user's answer to a question, which may be assigned to some users, by their ids."""
    if not _is_authorized(dag_id, user, "PUT", DagAccessEntity.HITL_DETAIL):
        return False
    is_assigned = getattr(get_auth_manager(), "is_authorized_hitl_task", None)
    if not assigned_users or is_assigned is None:  # Airflow 3.1.0 compares the ids itself
        return not assigned_users or str(user.get_id()) in assigned_users
    return bool(is_assigned(assigned_users=set(assigned_users), user=user))


def _is_authorized(dag_id: str, user: GetUserDep, method: ResourceMethod, *entities: DagAccessEntity) -> bool:
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    authorized = partial(get_auth_manager().is_authorized_dag, method=method, details=details, user=user)
    return all(authorized(access_entity=entity) for entity in entities)


def can_read_connection(conn_id: str, user: GetUserDep) -> bool:
    """Return whether the user may read a connection, and so its budgets."""
    details = ConnectionDetails(conn_id=conn_id)
    return get_auth_manager().is_authorized_connection(method="GET", details=details, user=user)
