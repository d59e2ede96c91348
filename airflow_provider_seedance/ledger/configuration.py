"""The section ``[seedance]`` of Airflow's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo

import pendulum
from airflow.providers.common.compat.sdk import conf
from pendulum.tz.local_timezone import get_local_timezone

SECTION = "seedance"

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """
    Location of the ledger, and what it keeps.

    :param location: Id of an Airflow connection, or the URL of a SQLite file.
    :param namespace: Name of this Airflow in the database, which several may share.
    :param prompts: Whether prompts are stored.
    """

    location: str
    namespace: str = DEFAULT_NAMESPACE
    prompts: bool = True


def read_config() -> LedgerConfig | None:
    """Return the configured ledger, or ``None`` if there is none."""
    location = (conf.get(SECTION, "ledger", fallback="") or "").strip()
    if not location:
        return None
    namespace = (conf.get(SECTION, "ledger_namespace", fallback="") or "").strip()
    return LedgerConfig(
        location=location,
        namespace=namespace or DEFAULT_NAMESPACE,
        prompts=conf.getboolean(SECTION, "ledger_prompts", fallback=True),
    )


def default_timezone() -> tzinfo:
    """Return Airflow's default timezone, in which days and budgets begin."""
    name = conf.get("core", "default_timezone", fallback="utc")
    if name == "system":
        return get_local_timezone()
    return pendulum.UTC if name.lower() == "utc" else pendulum.Timezone(name)


def local_now() -> datetime:
    """Return the current time in Airflow's default timezone."""
    return datetime.now(default_timezone())
