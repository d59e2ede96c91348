"""Which service a command speaks to: the environment's, or an Airflow connection."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_seedance.apis.registry import DEFAULT_API, get_api
from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.generations import ImageRequest
from airflow_provider_seedance.settings import Settings

#: Environment variables that name a service without a connection.
KEY_VARIABLE = "SEEDANCE_API_KEY"
API_VARIABLE = "SEEDANCE_API"
HOST_VARIABLE = "SEEDANCE_BASE_URL"
MEDIA_HOSTS_VARIABLE = "SEEDANCE_MEDIA_HOSTS"

#: The variable by which Airflow's processes know that they may ask the database.
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def connection_from_environment(environ: Mapping[str, str] = os.environ) -> str | None:
    """
    Return the connection that the environment describes, as JSON, or ``None``.

    ``SEEDANCE_API_KEY`` is the key, ``SEEDANCE_API`` the service, ``SEEDANCE_BASE_URL`` another address
    of it, if it has one, and ``SEEDANCE_MEDIA_HOSTS`` the hosts, with commas between them, that media may
    come from in addition to public https ones.

    :raises SeedanceConfigurationError: it names a service that does not exist, or one without a key.
    """
    key, api, host = (environ.get(name) for name in (KEY_VARIABLE, API_VARIABLE, HOST_VARIABLE))
    if not key:
        if api:
            raise SeedanceConfigurationError(f"{API_VARIABLE} is set, but {KEY_VARIABLE} is not.")
        return None
    name = get_api(api or DEFAULT_API).name
    connection: dict[str, Any] = {"conn_type": "seedance", "password": key, "extra": {"api": name}}
    if host:
        connection["host"] = host
    if hosts := [
        item.strip() for item in (environ.get(MEDIA_HOSTS_VARIABLE) or "").split(",") if item.strip()
    ]:
        connection["extra"]["media_hosts"] = hosts
    return json.dumps(connection)


def makes_images(settings: Settings) -> bool:
    """Whether the service makes images as well as videos."""
    return bool(settings.api.rules(ImageRequest(prompt="?"), settings.base_url))


@contextlib.contextmanager
def airflows_database() -> Iterator[None]:
    """
    Let connections and variables be found in Airflow's database, where there is one; it is only read.

    A process that is no part of Airflow looks for them in the environment and in secrets backends only. Asking
    a database that is not there would make sqlite create its file.
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
        from airflow.configuration import conf
        from sqlalchemy.engine import make_url

        url = make_url(conf.get_mandatory_value("database", "sql_alchemy_conn"))
    except Exception:  # no configuration is no database; what it says may be secret
        return False
    return url.get_backend_name() != "sqlite" or bool(url.database and os.path.exists(url.database))
