"""The cost of a render is the same in the result, the estimate, the ledger, the metrics, the lineage and the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import make
from support import PROMPT, Log, Store, make_context

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger.account import Filter, spend
from airflow_provider_seedance.ledger.configuration import default_timezone, read_config
from airflow_provider_seedance.ledger.database import Database
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.operators.base import SeedanceOperator

Connect = Callable[..., None]


@pytest.mark.parametrize(
    ("api", "prices", "credits", "usd"),
    [
        ("seedanceapi-v1", [], 28, 0.14),
        ("seedanceapi-v1", [{"usd_per_credit": 0.004}], 28, 0.112),
        ("seedanceapi-v1", [{"usd": 0.333333}], 28, 0.333333),
        ("ark", [{"usd_per_second": 0.1}], None, 0.5),
        ("ark", [], None, None),
    ],
)
def test_the_cost_is_the_same_everywhere(
    services: SeedanceEmulator,
    connect: Connect,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    api: str,
    prices: list[dict[str, Any]],
    credits: float | None,
    usd: float | None,
) -> None:
    connect(api, prices=prices)
    counted, log = list[tuple[Any, ...]](), Log()
    monkeypatch.setattr(metrics, "cost_incurred", lambda *cost: counted.append(cost))
    monkeypatch.setattr(SeedanceOperator, "log", log, raising=False)
    request = {"prompt": PROMPT, "duration": 5 if api == "ark" else 8}
    operator = make(deferrable=False, poll_interval=0.01, **request)
    result = operator.execute(make_context(Store()))
    assert (result["credits"], result["cost_usd"]) == (credits, usd)
    estimate = SeedanceHook().estimate(VideoRequest.from_arguments(request))
    assert (estimate.credits, estimate.cost_usd) == (credits, usd)
    config = read_config()
    assert config is not None
    (total,) = spend(Database(config), Filter(), "day", default_timezone())
    assert (total["credits"], total["cost_usd"]) == (credits or 0, usd or 0)
    assert (total["reserved_credits"], total["reserved_cost_usd"]) == (0, 0)
    assert counted == [(api, credits, usd)]
    assert (f"${usd:g}" if usd else "cost not reported") in log.lines[-1]
    pytest.importorskip("openlineage.client")
    facet = operator.get_openlineage_facets_on_complete(None).run_facets["seedance_generation"]
    assert (facet.credits, facet.costUsd) == (credits, usd)
