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
        ({"url": None}, ""),
        ({"url": 5}, ""),
        ({"url": "javascript:alert(1)"}, ""),
        ({"url": "data:image/png;base64,AA"}, ""),
        ({}, ""),
        (None, ""),
        ("https://cdn.example/x.mp4", ""),
    ],
)
def test_the_link_is_an_address_or_nothing(monkeypatch: pytest.MonkeyPatch, result: Any, link: str) -> None:
    asked: list[Any] = []

    def get_value(*, ti_key: Any, key: str) -> Any:
        asked.append((ti_key, key))
        return result

    monkeypatch.setattr(module.XCom, "get_value", get_value)
    key = SimpleNamespace()
    assert SeedanceOutputLink().get_link(None, ti_key=key) == link  # type: ignore[arg-type]
    assert asked == [(key, "return_value")]


def test_its_name_is_where_a_task_ended_by_its_trigger_leaves_it() -> None:
    assert SeedanceOutputLink().xcom_key == "_link_SeedanceOutputLink"
    assert SeedanceOutputLink.name == "Output"
