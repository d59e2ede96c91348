"""
The services of this package, by the name that the connection's ``api`` gives them.

Adding a service is one file with a subclass of :class:`~airflow_provider_seedance.apis.base.Api` and one line here
(docs/adding-a-service.md). Nothing is imported: Airflow reads this at discovery, for the connection form.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.base import Api

#: Name of the service, and the module whose ``API`` speaks to it.
SERVICES: dict[str, str] = {
    "seedance2api": "airflow_provider_seedance.apis.seedance2api",
    "seedanceapi-v1": "airflow_provider_seedance.apis.seedanceapi_v1",
    "seedanceapi-v2": "airflow_provider_seedance.apis.seedanceapi_v2",
    "runbase": "airflow_provider_seedance.apis.runbase",
    "ark": "airflow_provider_seedance.apis.ark",
    "fal": "airflow_provider_seedance.apis.fal",
    "replicate": "airflow_provider_seedance.apis.replicate",
    "openrouter": "airflow_provider_seedance.apis.openrouter",
}

#: The service of a connection that names none.
DEFAULT_API = "seedanceapi-v2"


def get_api(name: str) -> Api:
    """
    Return the adapter of a service.

    :raises SeedanceConfigurationError: there is no such service; nothing was sent.
    """
    module = SERVICES.get(name) if isinstance(name, str) else None
    if module is None:
        # Only here: loading Airflow's exceptions at discovery would cost every process.
        from airflow_provider_seedance.exceptions import SeedanceConfigurationError
        from airflow_provider_seedance.generations import did_you_mean

        raise SeedanceConfigurationError(
            f"The connection's api is {name!r}; this package knows {', '.join(SERVICES)}."
            f"{did_you_mean(str(name), SERVICES)}"
        )
    api: Api = import_module(module).API
    return api


def console_of(api: Any, generation_id: Any) -> str | None:
    """Return the address of the service's own page about a generation, where there is one."""
    url = get_api(api).console_url if isinstance(api, str) and api in SERVICES else None
    return url.replace("{}", quote(str(generation_id), safe="")) if url and generation_id else None
