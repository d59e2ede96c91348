"""Messages of flows about generations that are billed."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from helpers import NOW, calls, drive, reply

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.client import flows


def now() -> datetime:
    return NOW


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("name", ["ark", "fal", "replicate"])
def test_a_refused_cancellation_says_only_that_the_render_is_billed(name: str, status: int) -> None:
    queued = {"id": "g1", "status": {"ark": "queued", "fal": "IN_QUEUE", "replicate": "starting"}[name]}
    refused = reply(status, {"error": {"code": "x", "message": "no"}, "detail": "no"})
    known = "fal-ai/seedance:g1" if name == "fal" else "g1"
    result, steps = drive(
        flows.cancel_flow(get_api(name), known, "video", now), [reply(200, queued), refused]
    )
    assert len(calls(steps)) == 2
    assert result.reason.endswith(f"): generation {known} goes on at {name} and is billed")
    assert not re.search("Nothing was billed|Correct the request", result.reason)


def test_a_status_request_that_is_refused_has_no_advice_about_a_submission() -> None:
    refused = reply(400, {"error": {"code": "InvalidParameter", "message": "no"}})
    with pytest.raises(errors.SeedanceRequestError) as caught:
        drive(flows.status_flow(get_api("ark"), "g1", "video", now), [refused])
    assert "Correct the request" not in str(caught.value)
