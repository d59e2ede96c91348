"""
Triggers that an earlier version of this package has stored must load: renders are in flight during an upgrade.

``stored_kwargs.json`` holds, for each released form of each trigger, what stands in the database then. Never
change an entry: add one when a trigger gets or loses an argument.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pkgutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger
from support import emulator_settings, smallest
from versions import deserialize, serialize

from airflow_provider_seedance.apis.validation import prepare_request
from airflow_provider_seedance.client import flows
from airflow_provider_seedance.client.api_client import Client
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import utc_now
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from airflow_provider_seedance.sensors.seedance import SeedanceGenerationSensor
from airflow_provider_seedance.triggers import seedance as module

STORED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("stored_kwargs.json").read_text())
NAMES = [f"{entry['classpath'].rpartition('.')[2]} of {entry['version']}" for entry in STORED]


def load(entry: dict[str, Any], **changes: Any) -> BaseTrigger:
    """Make the trigger as a triggerer does."""
    kwargs: Any = deserialize(entry["kwargs"])
    trigger: BaseTrigger = pkgutil.resolve_name(entry["classpath"])(**{**kwargs, **changes})
    return trigger


@pytest.mark.parametrize("entry", STORED, ids=NAMES)
def test_what_was_stored_loads(entry: dict[str, Any]) -> None:
    trigger = load(entry)
    classpath, kwargs = trigger.serialize()
    assert classpath == entry["classpath"]
    stored: Any = deserialize(entry["kwargs"])
    assert {name: kwargs[name] for name in stored} == stored


@pytest.mark.parametrize("entry", STORED, ids=NAMES)
def test_what_was_stored_still_waits(
    entry: dict[str, Any],
    services: SeedanceEmulator,
    connect: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EARLIEST", 0.0)
    connect("seedanceapi-v2", conn_id="renders")
    settings = emulator_settings(services, "seedanceapi-v2")
    request = prepare_request(settings, smallest("seedanceapi-v2")).request
    with Client(settings) as client:
        call = settings.api.submit_call(request)
        outcome = client.run(flows.submit_flow(settings.api, call, request, utc_now))
    generation_id = flows.raise_outcome(outcome).generation_id
    later = time.time() + 60
    # Of the stored arguments only those differ that name this very render, and the moments that are over.
    kwargs: Any = deserialize(entry["kwargs"])
    changes: dict[str, Any] = {"moment": 0.0} if kwargs.get("moment") else {}
    if "generation_id" in kwargs:
        changes |= {"generation_id": generation_id, "deadline": later}
    if "called" in kwargs:
        changes |= {"called": True}  # else it waits for a call, and asks only much later
    if "generations" in kwargs:
        one = kwargs["generations"][0]
        changes |= {"generations": [[generation_id, later, *one[2:]]], "enough": 1, "moment": None}
    trigger = load(entry, **changes)

    async def fire() -> Any:
        async with asyncio.timeout(30):
            return await anext(trigger.run())  # type: ignore[call-overload]

    event = asyncio.run(fire())
    if "moment" not in kwargs or "generations" in kwargs:
        assert event.payload["outcome"] in ("ended", "many")


# Beside the trigger, the name of a method and its arguments stand in the database.
RESUMES: list[tuple[type[Any], str, dict[str, Any]]] = [
    (
        SeedanceGenerateVideoOperator,
        "execute_complete",
        {"generation_id": "gen-7f3a", "result_defaults": {"model": "seedance-2.0"}, "deadline": 1795257600.5},
    ),
    (
        SeedanceGenerateVideoOperator,
        "execute_complete",
        {
            "generation_id": "gen-7f3a",
            "result_defaults": {},
            "deadline": 1795257600.5,
            "callback_nonce": "Zk3vQ0aT9bXy12Lw",
        },
    ),
    (SeedanceGenerateVideoOperator, "resume_uncertain", {"record": {"version": 1}, "callback_ids": []}),
    (SeedanceGenerateVideoOperator, "resume_submit", {"refusals": 1, "since": 1795254000.25}),
    (SeedanceGenerateVideoBatchOperator, "execute_complete", {"state": {}}),
    (SeedanceGenerationSensor, "execute_complete", {"deadline": 1795257600.5}),
]


@pytest.mark.parametrize(("operator", "method", "kwargs"), RESUMES)
def test_a_deferred_task_finds_its_method(operator: type[Any], method: str, kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(getattr(operator, method))
    signature.bind(object(), context={}, event=None, **kwargs)


@pytest.mark.parametrize(
    "name",
    [
        "SeedanceGenerationTrigger",
        "SeedanceBatchTrigger",
        "SeedanceQuotaTrigger",
        "SeedanceCallbackTrigger",
    ],
)
def test_the_newest_entry_is_what_is_stored_now(name: str) -> None:
    newest = [entry for entry in STORED if entry["classpath"].endswith(name)][-1]
    _, kwargs = load(newest).serialize()
    assert set(kwargs) == set(newest["kwargs"]), "add an entry to stored_kwargs.json"
    assert json.loads(json.dumps(serialize(kwargs))) == newest["kwargs"]
