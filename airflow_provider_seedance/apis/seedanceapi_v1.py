"""seedanceapi.org v1: videos, with credits and a price table."""

from __future__ import annotations

from typing import Any

from airflow_provider_seedance.apis import rules
from airflow_provider_seedance.apis.seedanceapi import SeedanceOrgApi
from airflow_provider_seedance.generations import GenerationRequest, VideoRequest, read_number


class SeedanceApiV1(SeedanceOrgApi):
    """seedanceapi.org v1: one model, durations of 4, 8 or 12 seconds."""

    name = "seedanceapi-v1"
    title = "seedanceapi.org v1"
    default_base_url = "https://seedanceapi.org/v1"
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

    def billed(self, request: GenerationRequest) -> GenerationRequest | None:
        sent = {**self.body(request), **(request.extra_params or {})}
        return VideoRequest(
            prompt=request.prompt,
            duration=read_number(sent.get("duration", 8)),  # type: ignore[arg-type]
            resolution=sent.get("resolution", "720p"),
            generate_audio=sent.get("generate_audio", False),
        )


API = SeedanceApiV1()
