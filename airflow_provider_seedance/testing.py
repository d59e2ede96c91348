"""
Emulator of the services, fixtures for pytest, and a runner of one operator, for tests of your own Dags.

::

    def test_my_operator(seedance_emulator):
        result = run_operator(SeedanceGenerateVideoOperator(task_id="render", prompt="A kite"))
        assert result["url"]

``@pytest.mark.seedance_emulator(api="ark", credits=50)`` chooses the service and passes arguments to the
emulator, which needs the extra ``airflow-provider-seedance[emulator]``.

pytest loads this module in every session of an environment that has the provider, so it imports everything else
on first use only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
    from airflow_provider_seedance.emulator.remote import RemoteFault, SeedanceEmulatorClient

__all__ = ["RemoteFault", "SeedanceEmulator", "SeedanceEmulatorClient", "run_operator"]

_MODULES = {"SeedanceEmulator": "emulator", "SeedanceEmulatorClient": "remote", "RemoteFault": "remote"}

#: Arguments of the fixture's emulator, in which a render takes 0.05 s; a test that names one of them names both.
_QUICK_RENDERS = {"speed": 1000.0, "render_seconds": 50.0}

#: Changes of the schedule for it: a render is seen to have ended soon after, with any `poll_interval`.
_QUICK_POLLS: dict[str, Any] = {
    "max_delay": 0.05,
    "max_backoff": 0.05,
    "min_trigger_time": 0.0,
    "min_retry_delay": 0.05,
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"airflow_provider_seedance.emulator.{_MODULES[name]}"), name)


@dataclass
class _TaskStateStore:
    """Task state store of Airflow 3.3, in memory."""

    texts: dict[str, str] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.texts[key]) if key in self.texts else default

    def set(self, key: str, value: Any, **_: Any) -> None:
        self.texts[key] = json.dumps(value)


@dataclass
class _TaskInstance:
    """Task instance in its first and only try, in memory."""

    task_id: str
    dag_id: str = "test"
    run_id: str = "test"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", **_: Any) -> Any:
        return self.xcoms.get(key)


def run_operator(operator: BaseOperator, **context: Any) -> Any:
    """
    Run one operator without a Dag and without a database, and return its result.

    It is rendered, executed, and resumed after each deferral, as a worker and a triggerer do. Its errors are raised.

    :param context: Further variables for its templates, such as ``ds="2026-01-01"``.
    """
    from airflow.providers.common.compat.sdk import TaskDeferred

    # As a task process does: Airflow warns of other callers.
    import_module("airflow.sdk.bases.operator").ExecutorSafeguard.tracker.set(operator)
    now = datetime.now(UTC)
    variables = {
        "ti": _TaskInstance(operator.task_id),
        "task": operator,
        "run_id": "test",
        "params": {},
        "logical_date": now,
        "ds": f"{now:%Y-%m-%d}",
        "ts": now.isoformat(),
        "ds_nodash": f"{now:%Y%m%d}",
        "task_state_store": _TaskStateStore(),
        **context,
    }
    operator.render_template_fields(variables)  # type: ignore[arg-type]
    step = None
    while True:
        try:
            if step is None:
                return operator.execute(variables)  # type: ignore[arg-type]
            if hasattr(step.trigger, "end_from_trigger"):
                step.trigger.end_from_trigger = False  # no triggerer writes XComs here; same result
            event = asyncio.run(_first_event(step.trigger))
            arguments = {**(step.kwargs or {}), "event": event.payload}
            return operator.resume_execution(step.method_name, arguments, variables)  # type: ignore[arg-type]
        except TaskDeferred as deferral:
            step = deferral


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event
    raise AssertionError(f"{trigger!r} ended without an event")


try:
    import pytest
except ImportError:  # outside of a test session only the classes are used
    pass
else:

    def pytest_configure(config: pytest.Config) -> None:
        """Register the marker."""
        config.addinivalue_line(
            "markers",
            "seedance_emulator(api='seedanceapi-v2', **arguments): service and arguments of the emulator of a test",
        )

    @pytest.fixture
    def seedance_emulator(
        request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[SeedanceEmulator]:
        """
        Run an emulator for one test, behind the connection ``seedance_default``.

        A render ends within 0.3 s, with any ``poll_interval``.
        """
        from airflow_provider_seedance.polling import wait_state

        marker = request.node.get_closest_marker("seedance_emulator")
        arguments = dict(marker.kwargs) if marker else {}
        api = arguments.pop("api", "seedanceapi-v2")
        if not _QUICK_RENDERS.keys() & arguments:
            arguments |= _QUICK_RENDERS
        monkeypatch.setattr(wait_state, "TIMING", replace(wait_state.TIMING, **_QUICK_POLLS))
        with __getattr__("SeedanceEmulator")(**arguments) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json(api))
            yield emulator

    @pytest.fixture(scope="session")
    def _seedance_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Use a new SQLite database for Airflow, so that no other one is changed, until the session ends."""
        from airflow import settings
        from airflow.utils.db import initdb

        with pytest.MonkeyPatch.context() as patch:
            path = tmp_path_factory.mktemp("airflow") / "airflow.db"
            patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{path}")
            settings.configure_vars()  # type: ignore[no-untyped-call]
            settings.dispose_orm()
            settings.configure_orm()  # type: ignore[no-untyped-call]
            initdb()
            yield
            settings.dispose_orm()

    @pytest.fixture
    def seedance_airflow(seedance_emulator: SeedanceEmulator, _seedance_database: None) -> SeedanceEmulator:
        """Run an emulator for one test, with an Airflow database for ``dag.test()`` that the session shares."""
        return seedance_emulator
