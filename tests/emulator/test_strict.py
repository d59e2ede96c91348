"""An emulator that leaves out what no document says, and the package against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from helpers import ALL_APIS, video
from support import PROMPT

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from emulator.vendor import ARK_TASKS, VALID_SUBMITS, Vendor

Connect = Callable[..., None]


@pytest.fixture
def emulator_options() -> dict[str, Any]:
    return {"strict": True}


@pytest.fixture
def strict(services: SeedanceEmulator, http: httpx.Client) -> Callable[[str], Vendor]:
    return lambda api: Vendor(http=http, emulator=services, api=api)


# ---------------------------------------------------------------------- what is left out


def test_errors(services: SeedanceEmulator, strict: Callable[[str], Vendor]) -> None:
    for api, path, body in (
        ("seedanceapi-v1", "/status?task_id=x", {"code": "TASK_NOT_FOUND"}),
        ("seedanceapi-v2", "/status?task_id=x", {}),
        ("runbase", "/runs/x", {}),
    ):
        reply = strict(api).get(path)
        assert (reply.status_code, reply.json()) == (404, body)
    # Codes outside the tables.
    for api, path in (("seedance2api", "/tasks/x"), ("ark", f"{ARK_TASKS}/cgt-20260101000000-abcde")):
        error = strict(api).get(path).json()["error"]
        assert "code" not in error
        assert error["message"]
    services.fault("refuse", status=500)
    assert strict("ark").post(ARK_TASKS, {}).json()["error"]["code"] == "InternalServiceError"


@pytest.mark.parametrize("api", ALL_APIS)
def test_unusual_codes_are_answered(
    api: str, services: SeedanceEmulator, strict: Callable[[str], Vendor], connect: Connect
) -> None:
    connect(api)
    for code in (402, True, ["NotFound"], {"a": 1}, "5.x", "12", "", "x" * 5000):
        services.fault("refuse", status=418, code=code)
        reply = strict(api).submit()
        assert (reply.status_code, type(reply.json())) == (418, dict)
    # As a number, which most services write as text, and as text.
    for code in (402, ["NotFound"], "x" * 5000):
        services.fault("fail", message="no", code=code)
        failed = strict(api).submit_id()
        assert SeedanceHook().get_generation(failed).status is GenerationStatus.FAILED


def test_fields_that_only_clients_know(services: SeedanceEmulator, strict: Callable[[str], Vendor]) -> None:
    for api, absent in (
        ("seedanceapi-v2", {"created_at", "request", "consumed_credits"}),
        ("runbase", {"model", "error"}),
    ):
        body = strict(api).status(strict(api).submit_id()).json()
        render = body.get("data", body)
        assert "status" in render
        assert not absent & set(render)
    for api, path, request in (
        ("seedanceapi-v2", "/generate", {"prompt": "kite", "resolution": "720p"}),
        ("runbase", "/runs", {"model": "bytedance/seedance-2.0", "input": {"prompt": "kite"}}),
    ):
        assert strict(api).post(path, request).status_code == 400
    for api in ("ark", "runbase", "seedanceapi-v1", "seedanceapi-v2"):
        services.fault("rate_limit", on="any", retry_after=30)
        reply = strict(api).status("x")
        assert (reply.status_code, "retry-after" in reply.headers) == (429, False)


def test_callbacks(services: SeedanceEmulator, strict: Callable[[str], Vendor]) -> None:
    # No document of seedance2api has a callback of a failure.
    services.fault("fail", message="no")
    for api, field in (("seedance2api", "webhook_url"), ("seedanceapi-v1", "callback_url")):
        path, body = VALID_SUBMITS[api]
        strict(api).post(path, {**body, field: "http://127.0.0.1:9/callback"}).raise_for_status()
    # They are sent in the order of submission: that of the first one would precede that of the second one.
    assert [(callback.api, callback.body) for callback in strict("seedanceapi-v1").callbacks()] == [
        ("seedanceapi-v1", {})
    ]


# ---------------------------------------------------------------------- the package against it


@pytest.mark.parametrize("api", ALL_APIS)
def test_the_package_understands_it(api: str, services: SeedanceEmulator, connect: Connect) -> None:
    connect(api)
    hook = SeedanceHook()
    # A rate limit is not a failed submission.
    services.fault("rate_limit", retry_after=None)
    assert hook.wait(hook.submit(video(PROMPT)).generation_id).url
    assert len(services.ledger.submissions) == 1
    services.fault("fail", message="no")
    failed = hook.submit(video(PROMPT)).generation_id
    with pytest.raises(errors.SeedanceError):
        hook.wait(failed)
    assert hook.get_generation(failed).status is GenerationStatus.FAILED
    for status, meaning in (
        (401, errors.SeedanceAuthenticationError),
        (402, errors.SeedanceInsufficientCreditsError),
        (403, errors.SeedanceForbiddenError),
    ):
        services.fault("refuse", status=status)
        with pytest.raises(meaning):
            hook.submit(video(PROMPT))
    with pytest.raises(errors.SeedanceNotFoundError):
        hook.get_generation("bytedance:seedance-2.0:x" if api == "fal" else "x")
