"""``max_credits`` over all tries and clears of a task instance, single and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from support import Log

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.decorators.seedance import _SeedanceVideoDecoratedOperator as Decorated
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.triggers import events
from operators.batch_runner import Batch, keys, kinds
from operators.generation_task import Connect, Tries, make

#: Credits of a render of four seconds in 720p by the published prices.
PRICE = 14

IN_720P = {"duration": 4, "resolution": "720p", "poll_interval": 0.01}
WAYS = pytest.mark.parametrize("deferrable", [True, False])


class Task(Tries):
    """One task instance, whose operator is made anew for each try."""

    make = staticmethod(make)

    def enter(self, **arguments: Any) -> Any:
        """Run through all deferrals; the arguments stay for the next tries."""
        self.defaults |= arguments
        self.op = self.make(**self.defaults)
        return super().enter()

    def check_refused(
        self, enter: Callable[[], Any], error: type[errors.SeedanceError] = errors.SeedanceMaxCreditsError
    ) -> None:
        """Check that the refusal of a try names the limit, the price, and what was spent by which generations."""
        paid = self.ids
        with pytest.raises(error) as caught:
            enter()
        assert not caught.value.retry_helps
        message = caught.value.message
        assert f"costs {PRICE} credits" in message
        assert f"max_credits={self.defaults['max_credits']:g}" in message
        assert f"{PRICE * len(paid):g} (" in message
        assert all(one in message for one in paid) or "an unknown id" in message
        assert self.ids == paid


@pytest.fixture
def api() -> str:
    return "seedanceapi-v1"


@pytest.fixture
def task(services: SeedanceEmulator, connect: Connect, api: str) -> Task:
    connect(api)
    return Task(services, connect, **IN_720P)


@pytest.fixture
def batch(services: SeedanceEmulator, connect: Connect, api: str) -> Batch:
    connect(api)
    return Batch(services, connect, **IN_720P)


decorated = partial(Decorated, task_id="task", python_callable=lambda: "A lamp")


@pytest.mark.parametrize(("operator", "deferrable"), [(make, True), (make, False), (decorated, True)])
def test_takes_after_clears_count(task: Task, operator: Any, deferrable: bool) -> None:
    task.make = operator
    task.enter(max_credits=2.5 * PRICE, on_clear="new", deferrable=deferrable)
    task.clear()
    for _ in range(2):
        task.check_refused(task.clear)
    task.enter(max_credits=3 * PRICE)
    assert len(task.ids) == 3


@WAYS
def test_failed_renders_count_over_retries(task: Task, deferrable: bool) -> None:
    task.services.fault("fail", times=None, message="no")
    task.defaults |= {"max_credits": 2 * PRICE, "deferrable": deferrable}
    for enter in (task.enter, task.retry):
        with pytest.raises(errors.SeedanceGenerationFailedError):
            enter()
    task.check_refused(task.retry)


def test_a_changed_request_counts_with_the_one_that_is_left_behind(task: Task) -> None:
    task.enter(max_credits=1.5 * PRICE)
    task.defaults["prompt"] = "Another lamp"
    task.check_refused(task.clear)
    task.defaults["on_uncertain_submit"] = "resubmit"
    task.check_refused(task.retry)


@WAYS
def test_a_lost_reply_counts_against_its_resubmission(task: Task, deferrable: bool) -> None:
    task.services.fault("drop_reply", times=None)
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="raise the limit") as caught:
        task.enter(max_credits=1.5 * PRICE, on_uncertain_submit="resubmit", deferrable=deferrable)
    assert f"{PRICE} (an unknown id)" in caught.value.message
    for next_try in (task.retry, task.clear):
        task.check_refused(next_try, errors.SeedanceUncertainSubmitError)


def test_an_uncertain_submission_counts_after_the_clear_that_repeats_it(task: Task) -> None:
    task.services.fault("drop_reply")
    with pytest.raises(errors.SeedanceUncertainSubmitError):
        task.enter(max_credits=1.5 * PRICE)
    task.check_refused(task.clear, errors.SeedanceUncertainSubmitError)
    task.defaults["max_credits"] = 2 * PRICE
    task.clear()
    task.defaults["on_clear"] = "new"
    with pytest.raises(errors.SeedanceMaxCreditsError, match=f"{2 * PRICE} .an unknown id, {task.ids[-1]}"):
        task.clear()


def test_what_was_rejected_cost_nothing(task: Task) -> None:
    task.enter(max_credits=2 * PRICE, on_clear="new")
    for _ in range(3):
        task.services.fault("refuse", status=400)
        with pytest.raises(errors.SeedanceRequestError, match="answered 400"):
            task.clear()
    task.clear()
    assert len(task.ids) == 2


def test_a_paid_render_is_delivered_below_a_lowered_limit(task: Task) -> None:
    first = task.enter(max_credits=PRICE)
    task.defaults["max_credits"] = 0
    assert task.clear()["generation_id"] == first["generation_id"]


def test_a_lost_reply_counts_without_a_store_over_a_rate_limit(task: Task) -> None:
    """The record of the lost submission travels with the deferral; the limit is lowered while the task waits."""
    task.services.fault("drop_reply")
    task.services.fault("rate_limit", retry_after=1800)
    task.without_store()
    deferred = task.defer(max_credits=2 * PRICE, on_uncertain_submit="resubmit")
    assert deferred.method_name == "resume_submit"
    task.op.max_credits = 1.5 * PRICE
    with pytest.raises(errors.SeedanceUncertainSubmitError, match="raise the limit"):
        task.resume({"not_before": 1})
    assert len(task.ids) == 1


@pytest.mark.parametrize("stored", [True, False])
def test_a_lost_reply_of_an_item_counts_against_its_resubmission(batch: Batch, stored: bool) -> None:
    batch.services.fault("drop_reply", prompt="a", times=None)
    batch.services.fault("drop_reply", prompt="b", times=None)
    batch.stored = stored
    arguments = {"max_credits": 3.5 * PRICE, "on_uncertain_submit": "resubmit"}
    result = batch.run(["a", "b", "c"], **arguments, on_item_failure="keep")
    assert kinds(result) == [("0", "uncertain"), ("1", "uncertain")]
    assert batch.paid == ["a", "a", "b"]
    assert result["not_submitted"] == ["2"]


def test_a_batch_names_what_was_spent(batch: Batch, log: Log) -> None:
    batch.run(["a", "b"], max_credits=2 * PRICE, on_clear="new")
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        batch.clear()
    earlier = "earlier submissions of this task instance cost, or may cost"
    expected = f"max_credits=28 leaves: {earlier}, 28 ({', '.join(batch.ids)})"
    assert expected in str(caught.value)
    assert any(expected in line for line in log.lines)


def test_a_batch_stops_before_the_next_could_exceed_the_limit(batch: Batch, log: Log) -> None:
    arguments = {"max_credits": 2.5 * PRICE}
    result = batch.run(["a", "b", "c", "d"], **arguments, on_item_failure="keep")
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0", "1"], ["2", "3"])
    assert result["credits"] == 2 * PRICE
    spent = f"The request costs {PRICE} credits, more than max_credits={2.5 * PRICE:g} leaves: earlier"
    lines_about_it = [line for line in log.lines if line.startswith(spent) and f" {2 * PRICE} (" in line]
    assert any(line.endswith("2 renders not submitted: 2, 3.") for line in lines_about_it)
    with pytest.raises(errors.SeedanceBatchFinalError, match=r"max_credits.*2 renders not submitted"):
        batch.other_task().run(["a", "b", "c", "d"], **arguments)


def test_failed_items_count_over_retries(batch: Batch) -> None:
    batch.services.fault("fail", times=None, message="no")
    batch.prepare(["a", "b"], max_credits=3 * PRICE)
    for enter in (batch.enter, batch.retry, batch.retry):
        with pytest.raises(errors.SeedanceBatchError):
            enter()
    assert len(batch.paid) == 3


def test_failed_item_that_cost_nothing_does_not_count(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    read_event = events.read_event

    def nothing_consumed(event: Any, generation_id: str) -> Any:
        generation = read_event(event, generation_id)
        return generation and replace(generation, credits=0.0 if generation.error_message else PRICE)

    monkeypatch.setattr(events, "read_event", nothing_consumed)
    batch.services.fault("fail", prompt="a", message="no")
    with pytest.raises(errors.SeedanceBatchError):
        batch.run(["a", "b"], max_credits=2 * PRICE)
    assert batch.retry()["credits"] == 2 * PRICE
    assert sorted(batch.paid) == ["a", "a", "b"]


def test_uncertain_item_counts(batch: Batch) -> None:
    batch.services.fault("drop_reply", prompt="a")
    result = batch.run(["a", "b", "c"], max_credits=2 * PRICE, on_item_failure="keep")
    assert (keys(result["succeeded"]), keys(result["failed"])) == (["1"], ["0"])
    assert result["not_submitted"] == ["2"]


def test_items_that_left_the_list_count(batch: Batch) -> None:
    arguments = {"max_credits": 3.5 * PRICE, "on_item_failure": "keep", "on_clear": "new"}
    batch.run(["a", "b", "c"], **arguments)
    for requests in (["a"], ["d", "e"], ["a", "b", "c"]):
        batch.ti.clear()
        result = batch.run(requests, **arguments)
        assert result["counts"]["not_submitted"] == len(requests)
    assert len(batch.paid) == 3


def test_an_uncertain_item_comes_before_what_the_limit_refuses(batch: Batch) -> None:
    arguments = {"max_credits": 3 * PRICE, "on_uncertain_submit": "resubmit"}
    batch.services.fault("drop_reply", prompt="b", times=None)
    batch.services.fault("fail", prompt="a", message="no")
    batch.run(["a", "b"], **arguments, on_item_failure="keep")
    assert batch.paid == ["a", "b", "b"]
    result = batch.retry()
    assert kinds(result) == [("1", "uncertain")]
    assert result["not_submitted"] == ["0"]
    assert batch.paid == ["a", "b", "b"]


@WAYS
def test_max_cost_usd_counts_all_takes(task: Task, api: str, deferrable: bool) -> None:
    task.connect(api, prices=[{"usd": 0.1}])
    task.defaults |= {"max_cost_usd": 0.2, "on_clear": "new", "deferrable": deferrable}
    for enter in (task.enter, task.clear):
        assert enter()["cost_usd"] == 0.1
    with pytest.raises(errors.SeedanceMaxCreditsError) as caught:
        task.clear()
    expected = "The request costs $0.10, more than max_cost_usd=0.2 leaves: earlier submissions of this task instance"
    assert f"{expected} cost, or may cost, 0.2 (" in caught.value.message
    assert len(task.ids) == 2


def test_max_cost_usd_is_refused_without_a_price(task: Task, api: str) -> None:
    task.connect(api, prices=[{"usd_per_million_tokens": 10}])
    with pytest.raises(errors.SeedanceConfigurationError, match=r"max_cost_usd=5 cannot be honoured.*prices"):
        task.enter(max_cost_usd=5, max_credits=100)
    assert task.ids == []


def test_max_cost_usd_of_a_batch_bounds_the_sum(batch: Batch, api: str) -> None:
    batch.connect(api, prices=[{"usd": 0.1}])
    result = batch.run(["a", "b", "c"], max_cost_usd=0.25, on_item_failure="keep")
    assert (result["cost_usd"], result["not_submitted"]) == (0.2, ["2"])
    assert batch.paid == ["a", "b"]
