"""Base of versions 1 and 2 of seedanceapi.org: envelope, status call, error body."""

from __future__ import annotations

import re
from datetime import datetime

from airflow_provider_seedance.apis import base, parsing
from airflow_provider_seedance.apis.messages import HttpCall, JsonObject, VendorError
from airflow_provider_seedance.generations import GenerationStatus, read_number

_FINE_CODES = ("", "0", "200", "ok", "success")


class SeedanceOrgApi(base.Api):
    """seedanceapi.org: ``POST /generate`` and ``GET /status?task_id=``."""

    video_path = "/generate"
    callback_field = "callback_url"

    def status_call(self, generation_id: str) -> HttpCall:
        return HttpCall(method="GET", path="/status", query=(("task_id", generation_id),))

    def cost(self, consumed: float | None) -> float | None:
        """Return the cost of credits in US dollars, or ``None`` where the version publishes no rate."""
        rate = self.published.prices.usd_per_credit
        return None if consumed is None or rate is None else round(consumed * rate, 6)

    def details(self, payload: JsonObject, status: GenerationStatus, now: datetime) -> JsonObject:
        as_requested = parsing.mapping(payload.get("request"))
        consumed = read_number(payload.get("consumed_credits"))
        return {
            "model": parsing.text(as_requested.get("model")) or parsing.text(payload.get("model")),
            "duration": read_number(as_requested.get("duration", payload.get("duration"))),
            "resolution": parsing.text(as_requested.get("resolution"))
            or parsing.text(payload.get("resolution")),
            "credits": consumed,
            "cost_usd": self.cost(consumed),
        }

    def outputs(self, payload: JsonObject) -> tuple[str, ...]:
        return parsing.urls(payload.get("response")) or parsing.urls(payload.get("video_url"))

    def read_error(self, body: JsonObject) -> VendorError | None:
        error = body.get("error")
        nested = parsing.mapping(error)
        code = parsing.text(nested.get("code")) or parsing.text(body.get("code"))
        if code is not None and code.strip().lower() in _FINE_CODES:
            code = None
        if code is None and not error:
            return None
        message = parsing.text(nested.get("message")) or parsing.text(body.get("error_message"))
        if not message and body.get("message") not in ("success", "error"):
            message = parsing.text(body.get("message"))
        return VendorError(
            code=code,
            message=message or (error if isinstance(error, str) else None),
            status=int(code) if code and re.fullmatch("[4-9][0-9]{2}", code) else None,
        )

    def is_service_error(self, body: JsonObject) -> bool:
        # Every documented error has a code; gateways write a bare "error" or "message".
        vendor = self.read_error(body)
        return vendor is not None and vendor.code is not None
