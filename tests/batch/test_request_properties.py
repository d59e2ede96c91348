"""Requests of a batch: every format returns what was written, and any other value is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.batch.requests import read_requests
from airflow_provider_seedance.generations import VideoRequest


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
PROMPTS = TEXT.filter(lambda text: text.strip() not in ("", "None"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.fixed_dictionaries(
    {"prompt": PROMPTS}, optional=dict.fromkeys(sorted(requests._ARGUMENTS - {"prompt"}), JSON)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(ITEMS | PROMPTS, max_size=3),
    keys=st.lists(
        st.none() | st.integers(100) | TEXT.filter(lambda text: text.isprintable() and text.strip())
    ),
    defaults=st.fixed_dictionaries({}, optional={"duration": JSON, "seed": JSON}),
    ascii_only=st.booleans(),
)
def test_every_format_returns_the_written_list(
    tmp_path: Path, items: list[Any], keys: list[Any], defaults: dict[str, Any], ascii_only: bool
) -> None:
    used: set[str] = {str(index) for index in range(len(items))}
    for item, key in zip(items, keys, strict=False):
        if isinstance(item, dict) and str(key) not in used:
            item["key"] = key
            used.add(str(key))
    lines = [json.dumps(item, ensure_ascii=ascii_only) for item in items]
    direct = read_requests(items, defaults)
    assert len(direct) == len(items)
    assert read_requests(written(tmp_path / "r.jsonl", "\n".join(lines)), defaults) == direct
    assert read_requests(written(tmp_path / "r", "[" + ",".join(lines) + "]"), defaults) == direct
    assert read_requests(json.dumps(items), defaults) == direct
    assert read_requests(repr(items), defaults) == direct


def read_or_refused(value: Any) -> list[BatchItem]:
    """Return the requests, or none where they are refused with the proper message."""
    free = "Nothing was sent"
    try:
        return read_requests(value)
    except (errors.SeedanceRequestError, errors.SeedanceConfigurationError) as error:
        if free in error.message:
            return []
        raise


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r"])
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, data: bytes) -> None:
    items = read_or_refused(written(tmp_path / name, data))
    assert len({item.key for item in items}) == len(items)


@given(st.recursive(JSON | st.floats() | st.binary(max_size=3), lambda inner: st.lists(inner, max_size=4)))
def test_any_value_is_read_or_refused(value: Any) -> None:
    items = read_or_refused([value] if isinstance(value, str) else value)
    assert all(VideoRequest.from_arguments(item.arguments).prompt for item in items)
