"""Below Airflow 3.3 what fails around the methods of an operator does not make a retry pay again, either."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from support import TaskInstance, deferral, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.operators.seedance import (
    SeedanceGenerateVideoBatchOperator,
    SeedanceGenerateVideoOperator,
)
from operators.generation_task import Connect

OPERATORS: list[Any] = [
    pytest.param(SeedanceGenerateVideoOperator, {"prompt": "{{ prompt }}"}, id="single"),
    pytest.param(SeedanceGenerateVideoBatchOperator, {"requests": ["{{ prompt }}"]}, id="batch"),
]


class StartedTask(TaskInstance):
    """Task instance that knows what the API server says of an entry, as Airflow's do."""

    def __init__(self) -> None:
        super().__init__()
        self._ti_context_from_server = SimpleNamespace(next_method=None, should_retry=True)

    @property
    def server(self) -> Any:
        return self._ti_context_from_server


@pytest.fixture
def emulator(services: SeedanceEmulator, connect: Connect) -> SeedanceEmulator:
    connect("seedanceapi-v2")
    return services


@pytest.mark.parametrize("on_uncertain", ["fail", "resubmit"])
@pytest.mark.parametrize(("kind", "arguments"), OPERATORS)
def test_a_result_that_airflow_cannot_push_is_not_paid_for_again(
    emulator: SeedanceEmulator, kind: Any, arguments: dict[str, Any], on_uncertain: str
) -> None:
    ti = StartedTask()
    arguments = {**arguments, "deferrable": False, "poll_interval": 0.01}
    kind(task_id="task", on_uncertain_submit=on_uncertain, **arguments).execute(make_context(None, ti))
    assert ti.server.should_retry is (on_uncertain == "resubmit")


def test_an_estimate_that_airflow_cannot_push_is_made_again(emulator: SeedanceEmulator) -> None:
    ti = StartedTask()
    op = SeedanceGenerateVideoBatchOperator(task_id="task", requests=["a"], dry_run=True)
    op.execute(make_context(None, ti))
    assert ti.server.should_retry


def render(op: Any, ti: TaskInstance, **values: Any) -> None:
    context: Any = {**make_context(None, ti), **values}
    op.render_template_fields(context, op.get_template_env())


@pytest.mark.parametrize("submitted", [True, False])
@pytest.mark.parametrize(("kind", "arguments"), OPERATORS)
def test_a_template_that_fails_after_a_deferral(
    emulator: SeedanceEmulator, kind: Any, arguments: dict[str, Any], submitted: bool
) -> None:
    value = MagicMock(__str__=Mock(side_effect=ConnectionError("the secrets backend is away")))
    emulator.hold()
    if not submitted:
        emulator.fault("rate_limit", retry_after=1800)
    ti = StartedTask()
    op = kind(task_id="task", **arguments)
    render(op, ti, prompt="a")
    ti.server.next_method = deferral(lambda: op.execute(make_context(None, ti))).method_name
    expected = errors.SeedanceUnrecordedError if submitted else ConnectionError
    with pytest.raises(expected, match="secrets backend is away") as caught:
        render(kind(task_id="task", **arguments), ti, prompt=value)
    assert all(one.generation_id in str(caught.value) for one in emulator.ledger.submissions)
    assert len(emulator.ledger.submissions) == submitted


@pytest.mark.parametrize(("kind", "arguments"), OPERATORS)
def test_a_template_that_fails_at_the_start_is_retried(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        render(kind(task_id="task", **{**arguments, "model": "{{ 1 / 0 }}"}), StartedTask(), prompt="a")
