"""Reading a text file from Airflow's object storage, with errors that say whether a retry helps."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance import exceptions as errors


def read_text(path: Any, conn_id: str | None, *, largest: int, what: str) -> str:
    """
    Read a whole file as UTF-8.

    :param path: Text or an ``ObjectStoragePath``.
    :param conn_id: The connection of the store.
    :param largest: Most bytes.
    :param what: The operator's argument that names it, for errors.
    :raises SeedanceConfigurationError: it is not there, too large, or no text; a retry cannot help.
    :raises SeedanceMediaError: the store could not be read; a retry helps.
    """
    from airflow_provider_seedance.storage.location import StorageLocation

    place = StorageLocation.of(path, conn_id, what=what)
    try:
        with place.fs.open(place.path, "rb") as file:
            data: bytes = file.read(largest + 1)
    except FileNotFoundError:
        raise errors.SeedanceConfigurationError(
            f"{what} names {place.shown}, and there is no such file. Nothing was sent."
        ) from None
    except Exception as error:
        raise errors.SeedanceMediaError(
            f"{what} names {place.shown}, which could not be read ({type(error).__name__}: {error}). Nothing was "
            "sent; retry later."
        ) from error
    if len(data) > largest:
        raise errors.SeedanceConfigurationError(
            f"{what} names {place.shown}, which is larger than {largest // 1024**2} MiB. Nothing was sent."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.SeedanceConfigurationError(
            f"{what} names {place.shown}, which is no UTF-8 text ({error}). Nothing was sent."
        ) from None
