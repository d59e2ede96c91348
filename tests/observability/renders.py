"""Generations whose cost is counted."""

from __future__ import annotations

from airflow_provider_seedance.generations import Generation, GenerationStatus

PAID = Generation(
    generation_id="g1",
    api="seedanceapi-v1",
    media="video",
    status=GenerationStatus.SUCCEEDED,
    credits=28,
    cost_usd=0.14,
    usage={"output_tokens": 108900},
)
UNPRICED = Generation(generation_id="g2", api="ark", media="video", status=GenerationStatus.SUCCEEDED)
