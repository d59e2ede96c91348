"""Parsing of the ``Range`` header."""

from __future__ import annotations

import pytest

from airflow_provider_seedance.api_server.http_range import UnsatisfiableRange, parse_range


def test_range() -> None:
    for header, first, last in [
        ("bytes=0-", 0, 99),
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=90-1000", 90, 99),
        ("bytes=-10", 90, 99),
        ("bytes=-1000", 0, 99),
        (" bytes = 5-6 ", 5, 6),
    ]:
        part = parse_range(header, 100)
        assert part == range(first, last + 1)


def test_other_headers_mean_the_whole_file() -> None:
    for header in [None, "", "bytes=-", "bytes=9-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=+1-2"]:
        assert parse_range(header, 100) is None


def test_unsatisfiable() -> None:
    for header, size in [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)]:
        with pytest.raises(UnsatisfiableRange):
            parse_range(header, size)


def test_a_number_with_thousands_of_digits_is_ignored() -> None:
    assert parse_range(f"bytes=0-{'9' * 5000}", 100) is None
