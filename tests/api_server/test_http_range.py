"""Parsing of the ``Range`` header."""

from __future__ import annotations

import pytest

from airflow_provider_seedance.api_server.http_range import UnsatisfiableRange, parse_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", range(100)),
        ("bytes=0-0", range(1)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        (" bytes = 5-6 ", range(5, 7)),
        # Other headers mean the whole file.
        *((header, None) for header in (None, "", "bytes=-", "bytes=9-3", "bytes=0-1,3-4", "items=0-1")),
        *((header, None) for header in ("bytes=a-b", "bytes=+1-2")),
        pytest.param(f"bytes=0-{'9' * 5000}", None, id="thousands of digits"),
    ],
)
def test_range(header: str | None, part: range | None) -> None:
    assert parse_range(header, 100) == part


def test_unsatisfiable() -> None:
    for header, size in [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)]:
        with pytest.raises(UnsatisfiableRange):
            parse_range(header, size)
