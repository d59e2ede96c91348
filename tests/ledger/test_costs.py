"""The cost of a render is the same in the result, the estimate, the ledger, the metrics, the lineage and the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import Connect, make
from support import PROMPT, Log, Store, make_context

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.configuration import default_timezone
from airflow_provider_seedance.ledger.spending import spend
from airflow_provider_seedance.observability import metrics
from airflow_provider_seedance.operators.base import SeedanceOperator

from .record_samples import ended
from .rows import configured, recorded


@pytest.mark.parametrize(
    ("api", "prices", "credits", "usd"),
    [
        ("seedanceapi-v1", [], 28, 0.14),
        ("seedanceapi-v1", [{"usd_per_credit": 0.004}], 28, 0.112),
        ("seedanceapi-v1", [{"usd": 0.333333}], 28, 0.333333),
        ("ark", [{"usd_per_second": 0.1}], None, 0.5),
        ("ark", [], None, 0.7623),
        ("ark", [{"usd_per_million_tokens": 10}], None, "tokens"),
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
    usd: Any,
) -> None:
    connect(api, prices=prices)
    counted, log = list[tuple[Any, ...]](), Log()
    monkeypatch.setattr(
        metrics, "cost_incurred", lambda one: counted.append((one.api, one.credits, one.cost_usd, one.usage))
    )
    monkeypatch.setattr(SeedanceOperator, "log", log, raising=False)
    request: dict[str, Any] = {"prompt": PROMPT, "duration": 8}
    if api == "ark":
        request |= {"duration": 5, "aspect_ratio": "16:9", "resolution": "720p"}
    operator = make(deferrable=False, poll_interval=0.01, **request)
    result = operator.execute(make_context(Store()))
    tokens = result["usage"]["output_tokens"] if api == "ark" else None
    if by_tokens := usd == "tokens":
        usd = round(tokens * 10 / 1e6, 6)
    assert (result["credits"], result["cost_usd"]) == (credits, usd)
    estimate = SeedanceHook().estimate(VideoRequest.from_arguments(request))
    # Where tokens are counted in another way, the actual cost differs from the estimate.
    assert by_tokens or (estimate.credits, estimate.cost_usd) == (credits, usd)
    (total,) = spend(configured(), Filter(), ("day",), default_timezone())
    assert (total["credits"], total["cost_usd"]) == (credits or 0, usd or 0)
    assert (total["reserved_credits"], total["reserved_cost_usd"]) == (0, 0)
    (row,) = recorded()
    assert (row["credits"], row["cost_usd"], row["output_tokens"]) == (credits, usd, tokens)
    assert counted == [(api, credits, usd, result["usage"])]
    assert (f"${usd:g}" if usd else "cost not reported") in log.lines[-1]
    pytest.importorskip("openlineage.client")
    facet = operator.get_openlineage_facets_on_complete(None).run_facets["seedance_generation"]
    assert (facet.credits, facet.costUsd, facet.outputTokens) == (credits, usd, tokens)


def test_a_failed_render_keeps_its_reported_cost_without_another_request() -> None:
    record = ended(1, status=GenerationStatus.FAILED, urls=(), credits=3.0, cost_usd=0.015)
    end = replace(record, result=None).known_end()
    assert end is not None
    assert (end.credits, end.cost_usd) == (3.0, 0.015)
