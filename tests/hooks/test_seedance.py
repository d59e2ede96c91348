"""The hook, synchronous and asynchronous, against all five services over real sockets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers import ALL_APIS, image, video
from operators.generation_task import Connect
from support import PROMPT, SECRET, on_loop

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import GenerationStatus
from airflow_provider_seedance.hooks.seedance import SeedanceHook, look_up_settings
from airflow_provider_seedance.version_compat import AIRFLOW_V_3_4_PLUS


class Twin:
    """The asynchronous twins of the methods of the hook, called as these are."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        twin = getattr(SeedanceHook(), "await_generation" if name == "wait" else f"a{name}")
        return lambda *arguments, **more: on_loop(twin(*arguments, **more))


@pytest.fixture
def api() -> str:
    return "ark"


@pytest.fixture(params=[SeedanceHook, Twin])
def hook(connect: Connect, api: str, request: pytest.FixtureRequest) -> Any:
    connect(api)
    return request.param()


#: Each service, with the hook or its asynchronous twin in turn.
EACH_API = pytest.mark.parametrize(
    ("api", "hook"),
    [*zip(ALL_APIS, [SeedanceHook, Twin] * 4, strict=True), ("ark", SeedanceHook)],
    indirect=["hook"],
)


@pytest.fixture
def submitted(services: SeedanceEmulator, hook: Any) -> str:
    """Id of a generation that ends when the test says so."""
    services.hold()
    return str(hook.submit(video(PROMPT)).generation_id)


# ---------------------------------------------------------------------- test_connection


def source(services: SeedanceEmulator, api: str) -> str:
    """Return how messages begin that are about the connection to a service."""
    return f"Connection 'seedance_default' ({api}, {services.base_url(api)})"


def answer(worked: bool, conn_id: str = "seedance_default") -> str:
    """Test a connection, which works or not; return what Airflow shows."""
    works, says = SeedanceHook(conn_id).test_connection()
    assert works is worked, says
    return says


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_good_connection(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    says = answer(True)
    assert "accepts the API key" in says
    assert ("Keep task state and resume" in says) is AIRFLOW_V_3_4_PLUS
    assert [request.method for request in services.ledger.requests] == ["GET"]
    assert services.ledger.submissions == []


def test_a_good_connection_with_a_misspelt_key(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connect("ark", modle="x")
    _ = SeedanceHook().settings
    assert "'modle'" in caplog.text
    says = answer(True)
    assert "Did you mean 'model'?" in says
    assert says.count("Connection 'seedance_default' (ark, http://") == 1


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_wrong_key(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch, connect: Connect, api: str
) -> None:
    fields = {**services.connection(api), "password": "sk-wrong-key-000"}
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps(fields))
    says = answer(False)
    assert says.startswith(f"{source(services, api)} answered 401: ")
    assert "This request costs nothing. Check the password of the connection" in says
    assert "sk-wrong-key-000" not in says
    assert services.ledger.submissions == []


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_service_that_cannot_be_reached(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.stop()
    failed = f"{source(services, api)}: the request failed: "
    says = answer(False)
    assert says.startswith(failed)
    assert "This request costs nothing. Check the host and the proxy of the connection" in says
    assert SECRET not in says
    with pytest.raises(errors.SeedanceConnectionError) as caught:
        SeedanceHook().submit(video(PROMPT))
    assert caught.value.message.startswith(failed)
    assert "Nothing was sent, nothing is billed. Check the host" in caught.value.message


STEPS = [(401, "Check the password"), (402, "Top up the account"), (403, "Check the plan")]


@pytest.mark.parametrize(
    ("api", "status", "step"), [(api, *step) for api, step in zip(ALL_APIS, itertools.cycle(STEPS))]
)
def test_a_refusal_says_what_was_billed_and_what_to_do(
    services: SeedanceEmulator, connect: Connect, api: str, status: int, step: str
) -> None:
    connect(api)
    services.fault("refuse", status=status)
    with pytest.raises(errors.SeedanceError) as caught:
        SeedanceHook().submit(video(PROMPT))
    assert caught.value.message.startswith(f"{source(services, api)} answered {status}")
    assert f". Nothing was billed. {step}" in caught.value.message


def test_a_malformed_or_missing_connection_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", '{"conn_type": "seedance", "extra": {"api": "ark"}}')
    url = "https://ark.ap-southeast.bytepluses.com/api/v3"
    assert answer(False).startswith(f"Connection 'seedance_default' (ark, {url}): it has no API key")
    assert "nowhere" in answer(False, "nowhere")


def test_a_connection_on_an_event_loop(connect: Connect) -> None:
    connect("ark")
    assert on_loop(look_up_settings("seedance_default")) == SeedanceHook().settings


# ---------------------------------------------------------------------- the life of a generation


@EACH_API
def test_from_submission_to_output(services: SeedanceEmulator, hook: Any) -> None:
    services.hold()
    generation = hook.submit(video(PROMPT))
    assert generation.generation_id == services.ledger.submissions[0].generation_id
    assert not generation.status.terminal
    assert not hook.get_generation(generation.generation_id).status.terminal
    services.finish(generation.generation_id)
    ended = hook.wait(generation.generation_id, 120, poll_interval=0.01)
    assert ended.status is GenerationStatus.SUCCEEDED
    assert ended.url is not None
    assert ended == hook.get_generation(generation.generation_id)
    assert len(services.ledger.posts()) == 1


@pytest.mark.parametrize("api", ["ark", "seedance2api"])
def test_images(services: SeedanceEmulator, hook: Any) -> None:
    generation = hook.submit(image(PROMPT))
    assert generation.status is GenerationStatus.SUCCEEDED
    assert (generation.media, len(generation.urls)) == ("image", 1)


@EACH_API
def test_a_request_the_service_does_not_take(services: SeedanceEmulator, hook: Any) -> None:
    with pytest.raises(errors.SeedanceRequestError):
        hook.submit(video(PROMPT, duration=1000))
    assert services.ledger.requests == []


@pytest.mark.parametrize("api", ["runbase"])
def test_a_lost_reply_is_never_repeated(services: SeedanceEmulator, hook: Any) -> None:
    services.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError) as caught:
        hook.submit(video(PROMPT))
    assert "may have been billed" in caught.value.message
    assert len(services.ledger.posts()) == 1


@EACH_API
def test_an_unknown_generation(services: SeedanceEmulator, hook: Any) -> None:
    with pytest.raises(errors.SeedanceNotFoundError):
        hook.get_generation("no-such")
    with pytest.raises(errors.SeedanceNotFoundError, match="does not know generation no-such"):
        hook.wait("no-such", 120, poll_interval=0.01)


@EACH_API
def test_waiting_for_a_failure(services: SeedanceEmulator, hook: Any, submitted: str) -> None:
    code = "OutputVideoSensitiveContentDetected"
    services.fail(submitted, f"not today {code}", code=code)
    with pytest.raises(errors.SeedanceModerationError, match="not today") as caught:
        hook.wait(submitted, 120, poll_interval=0.01)
    assert submitted in caught.value.message


def test_waiting_for_what_was_cancelled(services: SeedanceEmulator, hook: Any, submitted: str) -> None:
    services.cancel_remote(submitted)
    with pytest.raises(errors.SeedanceGenerationCancelledError, match="by a person"):
        hook.wait(submitted, 120, poll_interval=0.01)


@pytest.mark.parametrize("readable", [True, False])
def test_a_wait_times_out(services: SeedanceEmulator, hook: Any, submitted: str, readable: bool) -> None:
    if not readable:
        services.fault("gateway_error", on="status", times=None)
    with pytest.raises(errors.SeedanceTimeoutError) as caught:
        hook.wait(submitted, 0.1, poll_interval=0.01)
    assert ("could not be read" in caught.value.message) is not readable
    assert "goes on and is billed" in caught.value.message
    assert caught.value.generation_id == submitted


@pytest.mark.parametrize("api", ["runbase"])
def test_failed_readings_do_not_end_a_wait(services: SeedanceEmulator, hook: Any) -> None:
    generation_id = hook.submit(video(PROMPT)).generation_id
    fault = services.fault("refuse", on="status", status=500, times=4)
    assert hook.wait(generation_id, 120, poll_interval=0.01).url
    assert fault.used == 4


def test_cancelling_what_is_queued(services: SeedanceEmulator, hook: Any, submitted: str) -> None:
    done = hook.cancel(submitted)
    assert done.cancelled
    assert "not billed" in done.reason
    assert services.ledger.submissions[0].billed == 0


def test_an_estimate(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    estimate = SeedanceHook().estimate(video(PROMPT, duration=12, resolution="720p", generate_audio=True))
    assert (estimate.credits, estimate.cost_usd) == (84, 0.42)
    with pytest.raises(errors.SeedanceRequestError):
        SeedanceHook().estimate(video(PROMPT, duration=5))
    assert services.ledger.requests == []
