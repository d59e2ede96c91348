"""Metrics beside those of StatsD, and their errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_seedance.observability import metrics

from .renders import PAID


def test_opentelemetry_gets_the_cost_under_its_own_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, Any] = {}
    monkeypatch.setattr(
        metrics, "Stats", SimpleNamespace(incr=lambda name, value, tags: counted.update({name: value}))
    )
    metrics.cost_incurred(PAID)
    assert "gen_ai.usage.cost.amount" not in counted
    monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
    metrics.cost_incurred(PAID)
    assert counted["gen_ai.usage.cost.amount"] == counted["seedance.cost_usd"] == PAID.cost_usd


class Broken:
    def incr(self, *arguments: Any, **more: Any) -> None:
        raise RuntimeError("away")

    timing = gauge = incr


@pytest.mark.parametrize("stats", [Broken(), None])
def test_an_error_of_the_statistics_fails_nothing(monkeypatch: pytest.MonkeyPatch, stats: Any) -> None:
    monkeypatch.setattr(metrics, "Stats", stats)
    metrics.count_request("ark", "submit")
    metrics.count_refusal("ark")
    metrics.render_ended(api="ark", outcome="succeeded", polls=1, delay=0.0)
    metrics.cost_incurred(PAID)
    metrics.budget_used("seedance_default", "day", 0.5)
