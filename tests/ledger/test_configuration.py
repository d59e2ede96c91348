"""The section of Airflow's configuration, and the timezone of the days."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_seedance.ledger.configuration import default_timezone, local_now, read_config


@pytest.mark.parametrize(
    ("ledger", "namespace", "prompts", "expected"),
    [
        (None, "n", None, None),
        ("", None, None, None),
        ("  ", None, None, None),
        (" team ", None, None, ("team", "default", True)),
        ("team", " ", "True", ("team", "default", True)),
        ("team", " n ", "False", ("team", "n", False)),
    ],
)
def test_the_ledger_that_is_configured(
    monkeypatch: pytest.MonkeyPatch, ledger: Any, namespace: Any, prompts: Any, expected: Any
) -> None:
    for name, value in {"": ledger, "_NAMESPACE": namespace, "_PROMPTS": prompts}.items():
        if value is not None:
            monkeypatch.setenv(f"AIRFLOW__SEEDANCE__LEDGER{name}", value)
    found = read_config()
    assert (found and (found.location, found.namespace, found.prompts)) == expected


@pytest.mark.parametrize(
    ("name", "hours"),
    [("utc", 0), ("UTC", 0), ("Asia/Tokyo", 9), ("system", None)],
)
def test_the_timezone_of_the_days(monkeypatch: pytest.MonkeyPatch, name: str, hours: int | None) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TIMEZONE", name)
    now = local_now()
    assert now.tzinfo == default_timezone()
    expected = now.astimezone().utcoffset() if hours is None else timedelta(hours=hours)
    assert now.utcoffset() == expected
