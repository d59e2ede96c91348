"""The adapters: one file per service, of pure functions that build requests and read replies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from airflow_provider_seedance.exceptions import SeedanceConfigurationError
from airflow_provider_seedance.services import DEFAULT_API, SERVICES

if TYPE_CHECKING:
    from airflow_provider_seedance.apis.base import Api

__all__ = ["DEFAULT_API", "SERVICES", "get_api"]


def get_api(name: str) -> Api:
    """
    Return the adapter of a service.

    :raises SeedanceConfigurationError: there is no such service; nothing was sent.
    """
    module = SERVICES.get(name) if isinstance(name, str) else None
    if module is None:
        raise SeedanceConfigurationError(
            f"The connection's api is {name!r}; this package knows {', '.join(SERVICES)}."
        )
    api: Api = import_module(module).API
    return api
