"""runbase.net: runs of bytedance/seedance-1.5-pro, and of Seedream as public clients make them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_provider_seedance.apis import base, parsing, rules
from airflow_provider_seedance.apis.messages import JsonObject, VendorError
from airflow_provider_seedance.generations import GenerationRequest, GenerationStatus, read_number, read_time

_NO_IMAGES = "the documents of runbase mention no images; public clients run Seedream models"


class Runbase(base.Api):
    """runbase.net: the page names neither the field of the id nor any status but ``succeeded``."""

    name = "runbase"
    title = "runbase.net"
    default_base_url = "https://runbase.net/api/v1"
    video_path = image_path = status_path = "/runs"
    video_defaults = {"model": "bytedance/seedance-1.5-pro"}
    image_defaults = {"model": "bytedance/seedream-4.5"}
    # Contradiction 26.
    id_fields = ("id", "run_id", "task_id")
    video_rules = {
        "prompt": rules.text(),
        "model": rules.model_name(("bytedance/seedance-1.5-pro",)),
        "aspect_ratio": rules.one_of(("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")),
        "resolution": rules.one_of(("480p", "720p", "1080p")),
        "duration": rules.one_of((4, 8, 12), " (seconds)"),
        "generate_audio": rules.flag(),
        "images": rules.inputs(),
    }
    image_rules = {
        "prompt": rules.text(),
        "model": rules.undocumented(rules.text(), _NO_IMAGES),
        "images": rules.inputs(),
    }

    def body(self, request: GenerationRequest) -> dict[str, Any]:
        given = super().body(request)
        model = given.pop("model", None)
        if "duration" in given:
            given["duration"] = str(given["duration"])
        if "images" in given:
            given["image_urls"] = given.pop("images")
        return {"model": model, "input": given}

    def add_extra(self, body: dict[str, Any], extra: Mapping[str, Any]) -> None:
        body["input"].update(extra)

    def details(self, payload: JsonObject, status: GenerationStatus, now: datetime) -> JsonObject:
        return {
            "cost_usd": read_number(payload.get("costUsd", payload.get("cost_usd"))),
            "created_at": read_time(payload.get("created_at", payload.get("createdAt"))),
            "completed_at": read_time(payload.get("completed_at", payload.get("completedAt"))),
        }

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        output = payload.get("output")
        if isinstance(output, Mapping):
            return parsing.urls(output.get("urls")) or parsing.urls(output)
        return parsing.urls(output)

    def read_error(self, body: JsonObject) -> VendorError | None:
        # No body is documented; clients have received the message alone under "error".
        error = body.get("error")
        if isinstance(error, Mapping):
            return parsing.vendor_error(error)
        if isinstance(error, str) and error:
            message = parsing.text(body.get("message"))
            return VendorError(code=parsing.text(body.get("code")), message=message or error)
        return None

    def is_service_error(self, body: JsonObject) -> bool:
        # Gateways and frameworks write bare text under "error", with or without status and path.
        return isinstance(body.get("error"), Mapping) and self.read_error(body) is not None


API = Runbase()
