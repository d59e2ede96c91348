"""The service of a command: the environment's, or an Airflow connection."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from airflow.configuration import conf
from sqlalchemy.engine import make_url

from airflow_provider_seedance.apis.registry import DEFAULT_API, get_api
from airflow_provider_seedance.exceptions import SeedanceConfigurationError, SeedanceError
from airflow_provider_seedance.hooks.seedance import SeedanceHook

#: Environment variables that describe a service without an Airflow connection.
KEY_VARIABLE = "SEEDANCE_API_KEY"
API_VARIABLE = "SEEDANCE_API"
HOST_VARIABLE = "SEEDANCE_BASE_URL"
MEDIA_HOSTS_VARIABLE = "SEEDANCE_MEDIA_HOSTS"

#: Airflow reads connections from its database only in processes with this variable.
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def connection_from_environment(environ: Mapping[str, str] = os.environ) -> str | None:
    """
    Return the connection that the environment describes, as JSON, or ``None``.

    ``SEEDANCE_API_KEY`` is the key (of ``runbase`` also ``RUNBASE_API_KEY``), ``SEEDANCE_API`` the service,
    ``SEEDANCE_BASE_URL`` its address if it is not the public one, and ``SEEDANCE_MEDIA_HOSTS`` a comma-separated list
    of hosts that media may come from in addition to public https ones.

    :raises SeedanceConfigurationError: the service does not exist, or has no key.
    """
    key, api, host = (environ.get(name) for name in (KEY_VARIABLE, API_VARIABLE, HOST_VARIABLE))
    if api == "runbase":  # the only service of which the documents name a variable of its own
        key = key or environ.get("RUNBASE_API_KEY")
    if not key:
        if api:
            raise SeedanceConfigurationError(f"{API_VARIABLE} is set, but {KEY_VARIABLE} is not.")
        return None
    name = get_api(api or DEFAULT_API).name
    connection: dict[str, Any] = {"conn_type": "seedance", "password": key, "extra": {"api": name}}
    if host:
        connection["host"] = host
    listed = (environ.get(MEDIA_HOSTS_VARIABLE) or "").split(",")
    if hosts := [item.strip() for item in listed if item.strip()]:
        connection["extra"]["media_hosts"] = hosts
    return json.dumps(connection)


def open_hook(conn_id: str | None, *, advice: str = "") -> SeedanceHook:
    """
    Return a hook whose connection has been read, so that an unusable one is the first error.

    :param conn_id: Connection id; ``None`` for the service of the environment, or else the default connection.
    :param advice: A further remedy, for the error.
    """
    if conn_id is None and (connection := connection_from_environment()):
        os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = connection
    hook = SeedanceHook(conn_id or SeedanceHook.default_conn_name)
    try:
        with airflows_database():
            hook.settings  # noqa: B018
    except SeedanceError:
        raise
    except Exception as error:
        raise SeedanceConfigurationError(
            f"There is no usable connection {hook.seedance_conn_id!r} ({error}). Create it, or set {KEY_VARIABLE} "
            f"and {API_VARIABLE}{advice}. Nothing was sent."
        ) from error
    return hook


@contextlib.contextmanager
def airflows_database() -> Iterator[None]:
    """
    Read connections and variables from Airflow's database, too, if it exists.

    Outside of Airflow's own processes they come from the environment and from secrets backends only. A query of a
    missing sqlite database would create its file.
    """
    if _CONTEXT in os.environ or not _has_database():
        yield
        return
    os.environ[_CONTEXT] = "server"
    try:
        yield
    finally:
        del os.environ[_CONTEXT]


def _has_database() -> bool:
    try:
        url = make_url(conf.get_mandatory_value("database", "sql_alchemy_conn"))
    except Exception:  # no usable configuration; its message may contain secrets
        return False
    return url.get_backend_name() != "sqlite" or bool(url.database and os.path.exists(url.database))
