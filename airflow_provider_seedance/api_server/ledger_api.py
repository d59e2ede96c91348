"""
Routes of the pages about the ledger: its library, the spend, and the decisions of people about submissions.

They show the renders of the Dags that the user may read, and the budgets of the connections that the user may read.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import pendulum
from airflow.utils.session import create_session
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from airflow_provider_seedance.api_server import queries
from airflow_provider_seedance.api_server.callback_settings import read_connection
from airflow_provider_seedance.api_server.known_dags import KnownDags
from airflow_provider_seedance.api_server.media import REGION_PATTERN, respond_with_file
from airflow_provider_seedance.api_server.permissions import (
    CAN_EDIT_RENDERS,
    CAN_READ_RENDERS,
    GetUserDep,
    can_edit,
    can_read_connection,
    readable_dag_ids,
)
from airflow_provider_seedance.api_server.queries import Scope
from airflow_provider_seedance.api_server.renders import media_type_of
from airflow_provider_seedance.apis.registry import console_of
from airflow_provider_seedance.generations import iso, utc_now
from airflow_provider_seedance.ledger import account, library, spending
from airflow_provider_seedance.ledger.configuration import (
    LedgerConfig,
    default_timezone,
    local_now,
    read_config,
)
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.ledger.entries import TaskIdentity
from airflow_provider_seedance.ledger.reservations import budget_use
from airflow_provider_seedance.storage.location import StorageLocation, location_of

router = APIRouter(prefix="/api")

#: Renders in one response of the library.
PAGE_SIZE = 60

#: Time in which a task that is cleared to render again has to start; a later clear delivers the present render.
MAX_DECISION_AGE = timedelta(days=1)

#: The Dags in each ledger, for which a search would read all its rows once more.
_known_dags: defaultdict[LedgerConfig, KnownDags] = defaultdict(KnownDags)

SpendPeriod = Literal["30d", "month", "last_month", "12m"]


def _ledger() -> LedgerConfig:
    config = read_config()
    if config is None:
        raise HTTPException(404, "No ledger is configured: set [seedance] ledger.")
    return config


LedgerDep = Annotated[LedgerConfig, Depends(_ledger)]


# ---------------------------------------------------------------------- library


@router.get("/library")
def find_renders(
    config: LedgerDep,
    user: GetUserDep,
    text: Annotated[str, Query(max_length=500)] = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    uncertain: bool = False,
    dag_id: str | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Return the latest renders with these words, of the Dags that the user may read."""
    database = Database(config)
    readable = _readable(database, config, user, dag_id)
    search = library.Search(
        namespace=config.namespace, dag_ids=readable, run_id=run_id, text=text, uncertain=uncertain
    )
    found = library.find_renders(database, search, limit=PAGE_SIZE + 1, offset=offset)
    shown = found[:PAGE_SIZE]
    editable = {dag_id for dag_id in {row["dag_id"] for row in shown} if can_edit(dag_id, user)}
    return {
        "renders": [_render(row, can_edit=row["dag_id"] in editable) for row in shown],
        "next": offset + PAGE_SIZE if len(found) > PAGE_SIZE else None,
    }


def _readable(database: Database, config: LedgerConfig, user: GetUserDep, dag_id: str | None) -> set[str]:
    known = _known_dags[config].update(lambda since: library.dag_ids(database, config.namespace, since))
    return readable_dag_ids(known if dag_id is None else known & {dag_id}, user)


def _render(row: dict[str, Any], *, can_edit: bool) -> dict[str, Any]:
    """Return a render as the Renders page describes those of a run, with its place in the ledger."""
    route = f"api/dags/{quote(row['dag_id'], safe='')}/library/media"
    files = [
        {
            "name": PurePosixPath(path).name,
            "path": path,
            "media": str(kind).partition("/")[0],
            "url": f"{route}?{urlencode({'generation_id': row['generation_id'], 'index': index})}",
        }
        for index, path in enumerate(row.pop("stored_files"))
        if (kind := media_type_of(path))
    ]
    return {
        **row,
        "id": "/".join(str(row[name]) for name in library.KEY),
        "iteration": row["loop_index"] if row["loop_index"] >= 0 else None,
        "can_edit": can_edit,
        "can_settle": can_edit and row["state"] == "uncertain",
        "files": files,
        "console": console_of(row["api"], row["generation_id"]),
        "request": {},
        **dict.fromkeys(("label", "progress", "ends_at", "count")),
    }


@router.api_route("/dags/{dag_id}/library/media", methods=["GET", "HEAD"], dependencies=CAN_READ_RENDERS)
async def library_media(
    request: Request,
    dag_id: str,
    generation_id: str,
    config: LedgerDep,
    index: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """
    Return a stored file of a render, or a range of it.

    Workers only write the paths in the ledger, so none of them can be of a user's own choice.
    """
    return await respond_with_file(request, partial(_location, config, dag_id, generation_id, index))


def _location(config: LedgerConfig, dag_id: str, generation_id: str, index: int) -> StorageLocation | None:
    file = library.stored_file(Database(config), config.namespace, dag_id, generation_id, index)
    return location_of(file["path"], file["conn_id"]) if file and media_type_of(file["path"]) else None


# ---------------------------------------------------------------------- settling


class Settlement(BaseModel):
    """
    Decision about an uncertain submission.

    :param generation_id: The generation that was billed; ``None`` if nothing was.
    """

    run_id: str
    task_id: str
    map_index: int = -1
    loop_index: int = -1
    record_key: str
    generation_id: (
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] | None
    )


@router.post("/dags/{dag_id}/library/resolve", dependencies=CAN_EDIT_RENDERS, status_code=204)
def resolve(dag_id: str, settlement: Settlement, config: LedgerDep) -> None:
    """Settle an uncertain submission, for the next try of its task."""
    place = settlement.model_dump(exclude={"record_key", "generation_id"})
    task = TaskIdentity(namespace=config.namespace, dag_id=dag_id, **place)
    account.resolve(Database(config), task, settlement.record_key, settlement.generation_id)


# ---------------------------------------------------------------------- rendering again


class AnotherRender(BaseModel):
    """
    Decision that the next clear of a task pays for another generation.

    :param generation_id: The generation in place of which it comes. As soon as it has come, the decision is void.
    :param withdraw: Whether to withdraw the decision, because the task could not be cleared.
    """

    run_id: str
    task_id: str
    map_index: int = -1
    region: Annotated[str, Field(pattern=REGION_PATTERN)] = ""
    generation_id: Annotated[str, Field(min_length=1, max_length=1000)]
    withdraw: bool = False


@router.post("/dags/{dag_id}/library/again", dependencies=CAN_EDIT_RENDERS, status_code=204)
def render_again(dag_id: str, decision: AnotherRender, config: LedgerDep) -> None:
    """Record that another render is wanted; the page then clears the task through Airflow's own API."""
    place = {"dag_id": dag_id, **decision.model_dump(include={"run_id", "task_id", "map_index"})}
    if not decision.withdraw:
        with create_session() as session:
            found = queries.find_task(session, Scope(**place, region=decision.region))
        if reason := found.why_not_again if found else "There is no such task.":
            raise HTTPException(409, reason)
    until = None if decision.withdraw else utc_now() + MAX_DECISION_AGE
    task = TaskIdentity(namespace=config.namespace, **place)
    account.render_again(Database(config), task, decision.generation_id, until)


# ---------------------------------------------------------------------- spending


@router.get("/spend")
def spend(
    config: LedgerDep,
    user: GetUserDep,
    period: SpendPeriod = "30d",
    by: Literal["dag_id", "model"] = "dag_id",
) -> dict[str, Any]:
    """Return the spend by day and Dag or model, and the budgets."""
    database, timezone = Database(config), default_timezone()
    first, last = _days(period, local_now().date())
    chosen = account.Filter(
        namespace=config.namespace,
        dag_ids=_readable(database, config, user, None),
        since=pendulum.datetime(first.year, first.month, first.day, tz=timezone),
        until=pendulum.datetime(last.year, last.month, last.day, tz=timezone).add(days=1),
    )
    rows = spending.spend(database, chosen, ("day", by), timezone)
    return {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "timezone": str(timezone),
        "rows": [{**row, "group": row[by]} for row in rows],
        "budgets": _budgets(database, config, user),
    }


def _days(period: SpendPeriod, today: date) -> tuple[date, date]:
    """Return the first and the last day of a period."""
    first = today.replace(day=1)
    last = first - timedelta(days=1)
    return {
        "30d": (today - timedelta(days=29), today),
        "month": (first, today),
        "last_month": (last.replace(day=1), last),
        "12m": (pendulum.instance(first).subtract(months=11), today),
    }[period]


def _budgets(database: Database, config: LedgerConfig, user: GetUserDep) -> list[dict[str, Any]]:
    found, now = [], local_now()
    for conn_id in sorted(account.connection_ids(database, config.namespace)):
        settings = read_connection(conn_id) if can_read_connection(conn_id, user) else None
        if settings is None or not settings.budgets:
            continue
        with database.reading() as connection:
            uses = budget_use(connection, config.namespace, conn_id, settings.budgets, now)
        found += [
            {
                "conn_id": conn_id,
                "name": str(use.budget),
                "unit": use.budget.unit,
                "limit": use.budget.limit,
                "spent": use.spent,
                "reserved": use.reserved,
                "left": max(0.0, round(use.budget.limit - use.spent - use.reserved, 6)),
                "renews_at": iso(end) if (end := use.budget.renews_at(now)) else None,
            }
            for use in uses
        ]
    return found
