"""An invented service: the smallest adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import VendorError
from airflow_provider_seedance.generations import GenerationRequest


class Sixth(base.Api):
    name = "sixth"
    title = "the sixth service"
    default_base_url = "https://sixth.example/v1"
    video_path = status_path = "/jobs"
    id_fields = ("job",)
    video_rules = {"prompt": rules.text(), "duration": rules.whole_number(1, 9)}

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        return {"text": request.prompt, "seconds": getattr(request, "duration", None)}

    def outputs(self, payload: Mapping[str, Any]) -> tuple[str, ...]:
        return parsing.strings(payload.get("film"))

    def read_error(self, body: Mapping[str, Any]) -> VendorError | None:
        return VendorError(message=str(body["problem"])) if "problem" in body else None


API = Sixth()
