"""The value of ``seedance_conn_id``: one connection, or several that are tried in order."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance.exceptions import SeedanceConfigurationError


def connection_ids(value: Any) -> tuple[str, ...]:
    """
    Return the ids of the connections, in order.

    :raises SeedanceConfigurationError: it is not an id or a list of different ids; nothing was sent.
    """
    ids = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not ids or not all(isinstance(one, str) and one for one in ids) or len(set(ids)) < len(ids):
        raise SeedanceConfigurationError(
            f"seedance_conn_id is {value!r}; it takes the id of a connection, or a list of different ids. "
            "Nothing was sent."
        )
    return ids
