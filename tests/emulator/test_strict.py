"""An emulator that leaves out what no document says, and the package against it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

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
def strict(services: SeedanceEmulator, vendor: Callable[..., Vendor]) -> Callable[[str], Vendor]:
    return lambda api: vendor(services, api, services.key)


# ---------------------------------------------------------------------- what is left out


@pytest.mark.parametrize(
    ("api", "path", "status", "body"),
    [
        ("seedanceapi-v1", "/status?task_id=x", 404, {"code": "TASK_NOT_FOUND"}),
        ("seedanceapi-v2", "/status?task_id=x", 404, {}),
        ("runbase", "/runs/x", 404, {}),
    ],
)
def test_bodies_of_errors(
    api: str, path: str, status: int, body: dict[str, Any], strict: Callable[[str], Vendor]
) -> None:
    reply = strict(api).get(path)
    assert (reply.status_code, reply.json()) == (status, body)


@pytest.mark.parametrize(
    ("api", "path"),
    [("seedance2api", "/tasks/x"), ("ark", f"{ARK_TASKS}/cgt-20260101000000-abcde")],
)
def test_error_codes_outside_the_tables(api: str, path: str, strict: Callable[[str], Vendor]) -> None:
    error = strict(api).get(path).json()["error"]
    assert "code" not in error
    assert error["message"]


def test_a_documented_code_stays(services: SeedanceEmulator, strict: Callable[[str], Vendor]) -> None:
    services.fault("refuse", status=500)
    reply = strict("ark").post(ARK_TASKS, {})
    assert reply.json()["error"]["code"] == "InternalServiceError"


@pytest.mark.parametrize("code", [402, True, ["NotFound"], {"a": 1}, "5.x", "12", "", "x" * 5000])
@pytest.mark.parametrize("api", ALL_APIS)
def test_unusual_codes_are_answered(
    api: str, code: Any, services: SeedanceEmulator, strict: Callable[[str], Vendor], connect: Connect
) -> None:
    connect(api)
    services.fault("refuse", status=418, code=code)
    reply = strict(api).submit()
    assert (reply.status_code, type(reply.json())) == (418, dict)
    services.fault("fail", message="no", code=code)
    failed = strict(api).submit_id()
    assert SeedanceHook().get_generation(failed).status is GenerationStatus.FAILED


@pytest.mark.parametrize(
    ("api", "absent"),
    [
        ("seedanceapi-v2", {"created_at", "request", "consumed_credits"}),
        ("runbase", {"model", "error"}),
    ],
)
def test_fields_of_replies_that_only_clients_have_seen(
    api: str, absent: set[str], strict: Callable[[str], Vendor]
) -> None:
    body = strict(api).status(strict(api).submit_id()).json()
    render = body.get("data", body)
    assert "status" in render
    assert not absent & set(render)


@pytest.mark.parametrize("api", ["ark", "runbase", "seedanceapi-v1", "seedanceapi-v2"])
def test_retry_after(api: str, services: SeedanceEmulator, strict: Callable[[str], Vendor]) -> None:
    services.fault("rate_limit", on="any", retry_after=30)
    reply = strict(api).status("x")
    assert (reply.status_code, "retry-after" in reply.headers) == (429, False)


@pytest.mark.parametrize(
    ("api", "path", "body"),
    [
        ("seedanceapi-v2", "/generate", {"prompt": "kite", "resolution": "720p"}),
        ("runbase", "/runs", {"model": "bytedance/seedance-2.0", "input": {"prompt": "kite"}}),
    ],
)
def test_fields_and_models_of_clients_only(
    api: str, path: str, body: dict[str, Any], strict: Callable[[str], Vendor]
) -> None:
    assert strict(api).post(path, body).status_code == 400


@pytest.mark.parametrize(
    ("api", "field", "is_failure", "bodies"),
    [
        ("seedance2api", "webhook_url", True, []),
        ("seedanceapi-v1", "callback_url", False, [{}]),
    ],
)
def test_callbacks(
    api: str,
    field: str,
    is_failure: bool,
    bodies: list[Any],
    services: SeedanceEmulator,
    strict: Callable[[str], Vendor],
) -> None:
    if is_failure:
        services.fault("fail", message="no")
    path, body = VALID_SUBMITS[api]
    strict(api).post(path, {**body, field: "http://127.0.0.1:9/callback"}).raise_for_status()
    deadline = time.monotonic() + (5 if bodies else 0.2)
    while len(services.ledger.callbacks) < max(1, len(bodies)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [callback.body for callback in services.ledger.callbacks] == bodies


# ---------------------------------------------------------------------- the package against it


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_render(api: str, connect: Connect) -> None:
    connect(api)
    generation = SeedanceHook().submit(video(PROMPT))
    assert SeedanceHook().wait(generation.generation_id).url


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_failed_render(api: str, services: SeedanceEmulator, connect: Connect) -> None:
    connect(api)
    services.fault("fail", message="no")
    generation = SeedanceHook().submit(video(PROMPT))
    with pytest.raises(errors.SeedanceError):
        SeedanceHook().wait(generation.generation_id)
    assert SeedanceHook().get_generation(generation.generation_id).status is GenerationStatus.FAILED


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (401, errors.SeedanceAuthenticationError),
        (402, errors.SeedanceInsufficientCreditsError),
        (403, errors.SeedanceForbiddenError),
    ],
)
@pytest.mark.parametrize("api", ALL_APIS)
def test_a_refusal(
    api: str,
    status: int,
    meaning: type[errors.SeedanceError],
    services: SeedanceEmulator,
    connect: Connect,
) -> None:
    connect(api)
    services.fault("refuse", status=status)
    with pytest.raises(meaning):
        SeedanceHook().submit(video(PROMPT))


@pytest.mark.parametrize("api", ALL_APIS)
def test_an_unknown_generation(api: str, connect: Connect) -> None:
    connect(api)
    with pytest.raises(errors.SeedanceNotFoundError):
        SeedanceHook().get_generation("bytedance:seedance-2.0:x" if api == "fal" else "x")


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_rate_limit_is_not_a_failed_submission(
    api: str, services: SeedanceEmulator, connect: Connect
) -> None:
    connect(api)
    services.fault("rate_limit", retry_after=None)
    assert SeedanceHook().submit(video(PROMPT)).generation_id
    assert len(services.ledger.submissions) == 1
