"""seedanceapi.org v2: seedance-2.0 and seedance-2.0-fast ("Mini")."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_seedance.apis import rules
from airflow_provider_seedance.apis.seedanceapi import SeedanceOrgApi
from airflow_provider_seedance.generations import GenerationRequest

_NOT_IN_GUIDE = "the documents of seedanceapi-v2 do not mention this argument; it may have no effect"

_RATIO_OF_IMAGES = "seedanceapi-v2 documents ratios for text-to-video only; with images it may do nothing"


class SeedanceApiV2(SeedanceOrgApi):
    """seedanceapi.org v2: durations of 5, 10 or 15 seconds, up to four input images."""

    name = "seedanceapi-v2"
    title = "seedanceapi.org v2"
    default_base_url = "https://seedanceapi.org/v2"
    # Every example of the guide names a model; whether one is required is not said.
    video_defaults = {"model": "seedance-2.0"}
    video_rules = {
        "prompt": rules.text(max_chars=2000),
        "model": rules.model_name(("seedance-2.0", "seedance-2.0-fast")),
        "duration": rules.one_of((5, 10, 15), " (seconds)"),
        "aspect_ratio": rules.one_of(("16:9", "9:16", "4:3", "3:4")),
        "images": rules.inputs(maximum=4),
        # Contradiction 18: silent documents, but clients are seen to send them. Never sent unasked.
        "resolution": rules.undocumented(rules.text(), _NOT_IN_GUIDE),
        "generate_audio": rules.undocumented(rules.flag(), _NOT_IN_GUIDE),
        "fixed_lens": rules.undocumented(rules.flag(), _NOT_IN_GUIDE),
    }

    def rules(self, request: GenerationRequest, base_url: str) -> Mapping[str, rules.Rule]:
        found = super().rules(request, base_url)
        if not found or not request.images:
            return found
        return {**found, "aspect_ratio": rules.undocumented(found["aspect_ratio"], _RATIO_OF_IMAGES)}


API = SeedanceApiV2()
