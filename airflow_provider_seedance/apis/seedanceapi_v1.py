"""seedanceapi.org v1: videos, with credits and a price table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_seedance.apis import rules
from airflow_provider_seedance.apis.seedanceapi import SeedanceOrgApi
from airflow_provider_seedance.generations import Estimate, GenerationRequest, read_number

#: US dollars per credit; the same in every row of the price table.
USD_PER_CREDIT = 0.005

#: Credits by resolution, seconds and sound. A table because no formula fits (480p, 4 s, sound is 14).
PRICES: Mapping[tuple[str, int, bool], int] = {
    ("480p", 4, False): 8,
    ("480p", 8, False): 14,
    ("480p", 12, False): 19,
    ("480p", 4, True): 14,
    ("480p", 8, True): 28,
    ("480p", 12, True): 38,
    ("720p", 4, False): 14,
    ("720p", 8, False): 28,
    ("720p", 12, False): 42,
    ("720p", 4, True): 28,
    ("720p", 8, True): 56,
    ("720p", 12, True): 84,
}


class SeedanceApiV1(SeedanceOrgApi):
    """seedanceapi.org v1: one model, durations of 4, 8 or 12 seconds."""

    name = "seedanceapi-v1"
    title = "seedanceapi.org v1"
    default_base_url = "https://seedanceapi.org/v1"
    publishes_prices = True
    video_rules = {
        "prompt": rules.text(max_chars=2000),
        "aspect_ratio": rules.one_of(("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")),
        "resolution": rules.one_of(("480p", "720p")),
        "duration": rules.one_of((4, 8, 12), " (seconds)"),
        "generate_audio": rules.flag(),
        "fixed_lens": rules.flag(),
        "images": rules.inputs(maximum=1),
    }

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        body = super().body(request)
        if "duration" in body:
            # Documented as text here, as numbers elsewhere (row 16 of tests/apis/test_contradictions.py).
            body["duration"] = str(body["duration"])
        if "images" in body:
            body["image_urls"] = body.pop("images")
        return body

    def price(self, request: GenerationRequest) -> Estimate | None:
        sent = {**self.body(request), **(request.extra_params or {})}
        duration = read_number(sent.get("duration", 8))
        key = (sent.get("resolution", "720p"), duration, sent.get("generate_audio", False))
        try:
            credits = PRICES.get(key)  # type: ignore[arg-type]
        except TypeError:  # an unhashable value in extra_params
            return None
        return Estimate(credits=credits, cost_usd=self.cost(credits)) if credits is not None else None

    def cost(self, consumed: float | None) -> float | None:
        return round(consumed * USD_PER_CREDIT, 6) if consumed is not None else None


API = SeedanceApiV1()
