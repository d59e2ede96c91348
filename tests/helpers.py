"""Helpers for tests of the pure core: replies, a fixed clock, and a driver for flows without a network."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.base import Api
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpCall,
    HttpReply,
    NotAccepted,
    Pause,
    Refused,
    SubmitOutcome,
    TransportFailure,
    Uncertain,
)
from airflow_provider_seedance.apis.registry import SERVICES, get_api
from airflow_provider_seedance.apis.validation import Prepared, prepare_request
from airflow_provider_seedance.costs.pricing import Prices
from airflow_provider_seedance.generations import Generation, GenerationRequest, ImageRequest, VideoRequest
from airflow_provider_seedance.polling import quota, wait_state
from airflow_provider_seedance.settings import Settings, read_settings
from airflow_provider_seedance.submission import timing as submission_timing
from airflow_provider_seedance.urls import MediaHosts

NOW = datetime(2026, 2, 7, 10, 40, tzinfo=UTC)

FIXTURES = Path(__file__).parent / "apis" / "fixtures"

ALL_APIS = tuple(SERVICES)

KEY = "sk-live-0123456789"


def error_classes() -> list[type[errors.SeedanceError]]:
    """Return the errors of the package."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SeedanceError)
    ]


def everything_in(error: BaseException | None) -> str:
    """Return everything that a log, a callback or a debugger shows of an error and its causes."""
    shown = "".join(traceback.format_exception(error)) if error else ""
    seen: list[BaseException] = []
    while error is not None:
        assert error not in seen, "a chain of errors with a cycle"
        seen.append(error)
        shown += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return shown


def fixture(name: str) -> Any:
    """Return a sample of the documents."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def reply(status: int = 200, body: Any = None, headers: dict[str, str] | None = None) -> HttpReply:
    """Make a reply; ``bytes`` are a body as it is, anything else is written as JSON."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return HttpReply(status=status, headers=headers or {}, body=raw)


def video(prompt: str = "A lamp", **arguments: Any) -> VideoRequest:
    """Make a request for a video."""
    return VideoRequest(prompt=prompt, **arguments)


def image(prompt: str = "A lamp", **arguments: Any) -> ImageRequest:
    """Make a request for images."""
    return ImageRequest(prompt=prompt, **arguments)


def prepare(name: str, request: GenerationRequest, **options: Any) -> Prepared:
    """Prepare a request for a service at its own address; options are attributes of the settings."""
    api = get_api(name)
    fields = {"base_url": api.default_base_url, "media_hosts": MediaHosts(), "model": None}
    fields |= {"prices": Prices(), **options}
    return prepare_request(SimpleNamespace(api=api, **fields), request)


def refused(name: str, request: GenerationRequest, *words: str) -> None:
    """Check that a request is refused before it is sent, in a message that has these words."""
    with pytest.raises(errors.SeedanceRequestError) as caught:
        prepare(name, request)
    message = caught.value.message
    assert [word for word in (*words, "othing was sent") if word not in message] == [], message


def call_for(name: str, request: GenerationRequest, **options: Any) -> HttpCall:
    """Prepare a request and return the call that submits it."""
    return get_api(name).submit_call(prepare(name, request).request, **options)


def body_of(name: str, request: GenerationRequest, **options: Any) -> dict[str, Any]:
    """Return the body that a request is sent as."""
    body = call_for(name, request, **options).json
    assert body is not None
    return dict(body)


def submit(
    name: str, answer: HttpReply | TransportFailure, request: GenerationRequest | None = None
) -> SubmitOutcome:
    """Read an answer to a submission."""
    api = get_api(name)
    prepared = prepare(name, request or video()).request
    return api.read_submit(answer, api.submit_call(prepared), prepared, NOW)


def accepted(
    name: str, answer: HttpReply | TransportFailure, request: GenerationRequest | None = None
) -> Generation:
    """Read an answer that accepts a submission."""
    outcome = submit(name, answer, request)
    assert isinstance(outcome, Accepted)
    return outcome.generation


def declined(
    fate: type[NotAccepted | Refused | Uncertain],
    name: str,
    answer: HttpReply | TransportFailure,
    request: GenerationRequest | None = None,
) -> errors.SeedanceError:
    """Read an answer that has another of the fates of a submission; return its error."""
    outcome = submit(name, answer, request)
    assert isinstance(outcome, fate)
    return outcome.error


def read(api: Api, body: Any, generation_id: str | None = None, media: Any = "video") -> Any:
    """
    Read the state of a generation from the body of one status reply (and of no other).

    :param generation_id: The generation to read; without it, the one in the body.
    """
    if generation_id is None:
        generation_id = (api.find_id(body) if isinstance(body, dict) else None) or "g1"
    result, _ = drive(api.status_flow(generation_id, media, NOW), [reply(200, body)])
    return result


def failed_read(name: str, *answers: HttpReply | TransportFailure) -> errors.SeedanceError:
    """Read answers to status requests from which no state can be read; return the error."""
    with pytest.raises(errors.SeedanceError) as caught:
        drive(get_api(name).status_flow("g1", "video", NOW), answers)
    return caught.value


def drive(flow: Any, answers: Iterable[HttpReply | TransportFailure]) -> tuple[Any, list[HttpCall | Pause]]:
    """Drive a flow by hand with scripted answers; return its result and the steps it took."""
    script = iter(answers)
    steps: list[HttpCall | Pause] = []
    answer: HttpReply | TransportFailure | None = None
    try:
        while True:
            step = flow.send(answer)
            steps.append(step)
            answer = None if isinstance(step, Pause) else next(script)
    except StopIteration as stop:
        left = list(script)
        assert not left, f"{len(left)} replies were not requested"
        return stop.value, steps


def calls(steps: Iterable[HttpCall | Pause]) -> list[HttpCall]:
    """Return the calls among the steps."""
    return [step for step in steps if isinstance(step, HttpCall)]


def pauses(steps: Iterable[HttpCall | Pause]) -> list[float]:
    """Return the lengths of the pauses among the steps."""
    return [step.seconds for step in steps if isinstance(step, Pause)]


def connection(
    *,
    host: str | None = None,
    port: int | None = None,
    schema: str | None = None,
    password: str | None = KEY,
    extra: Any = None,
) -> SimpleNamespace:
    """Make what :func:`read_settings` needs of an Airflow connection."""
    if isinstance(extra, dict):
        extra = json.dumps(extra)
    return SimpleNamespace(host=host, port=port, schema=schema, password=password, extra=extra)


def settings(host: str | None = None, **extra: Any) -> Settings:
    """Read the settings of a connection with this host and extra."""
    return read_settings("seedance_test", connection(host=host, extra=extra))


def set_flow_timing(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the pauses between the calls of all services."""
    monkeypatch.setattr(Api, "timing", replace(Api.timing, **changes))


def set_timing(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the timing of all waits that are not given another."""
    monkeypatch.setattr(wait_state, "TIMING", replace(wait_state.TIMING, **changes))


def set_submission_timing(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the timing of all submissions."""
    monkeypatch.setattr(submission_timing, "TIMING", replace(submission_timing.TIMING, **changes))


def set_policy(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the rules of all quotas that are not given others."""
    monkeypatch.setattr(quota, "POLICY", replace(quota.POLICY, **changes))
