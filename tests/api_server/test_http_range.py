"""Which bytes a ``Range`` header wants."""

from __future__ import annotations

import pytest

from airflow_provider_seedance.api_server.http_range import Span, UnsatisfiableRange, wanted


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-", 0, 99),
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=90-1000", 90, 99),
        ("bytes=-10", 90, 99),
        ("bytes=-1000", 0, 99),
        (" bytes = 5-6 ", 5, 6),
    ],
)
def test_part(header: str, first: int, last: int) -> None:
    span = wanted(header, 100)
    assert span == Span(first=first, last=last)
    assert span.length == last - first + 1


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=9-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=+1-2"]
)
def test_whole_file_where_nothing_is_understood(header: str | None) -> None:
    assert wanted(header, 100) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_nothing_there(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRange):
        wanted(header, size)


def test_a_number_of_thousands_of_digits_is_no_range() -> None:
    assert wanted(f"bytes=0-{'9' * 5000}", 100) is None
