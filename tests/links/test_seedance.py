"""The link to the output of a task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_seedance.links import seedance as module
from airflow_provider_seedance.links.seedance import SeedanceOutputLink


@pytest.mark.parametrize(
    ("result", "link"),
    [
        ({"url": "https://cdn.example/x.mp4?sig=1"}, "https://cdn.example/x.mp4?sig=1"),
        ({"url": "http://127.0.0.1/x.mp4"}, "http://127.0.0.1/x.mp4"),
        *(({"url": url}, "") for url in (None, 5, "javascript:alert(1)", "data:image/png;base64,AA")),
        ({}, ""),
        (None, ""),
        ("https://cdn.example/x.mp4", ""),
    ],
)
def test_the_link_is_an_http_url_or_empty(monkeypatch: pytest.MonkeyPatch, result: Any, link: str) -> None:
    task = SimpleNamespace()

    def get_value(*, ti_key: Any, key: str) -> Any:
        assert (ti_key, key) == (task, "return_value")
        return result

    monkeypatch.setattr(module.XCom, "get_value", get_value)
    assert SeedanceOutputLink().get_link(None, ti_key=task) == link  # type: ignore[arg-type]
    # The key that the trigger writes.
    assert (SeedanceOutputLink.name, SeedanceOutputLink().xcom_key) == ("Output", "_link_SeedanceOutputLink")
