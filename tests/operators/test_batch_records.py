"""A batch across retries, clears, worker loss and failed deferrals: each render is paid for once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from helpers import ALL_APIS
from support import Store, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.submission import store as stores
from airflow_provider_seedance.submission import submitter
from airflow_provider_seedance.triggers import events
from operators.batch_runner import Connect, Runner, keys, lines, make, paid

# ---------------------------------------------------------------------- records


def test_retry_after_worker_loss_resumes(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    op = make(["a", "b", "c"])
    with pytest.raises(TaskDeferred):
        op.execute(make_context(runner.store, runner.ti))
    services.release()
    runner.ti.retry()
    assert runner.run(op)["counts"]["succeeded"] == 3
    assert sorted(paid(services)) == ["a", "b", "c"]


def test_order_of_requests_does_not_matter(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    first = runner.run(make(["a", "b", "a"]))
    runner.ti.clear()
    second = runner.run(make(["b", "a", "a"]))
    assert sorted(paid(services)) == ["a", "a", "b"]
    ids = [entry["generation_id"] for entry in first["succeeded"]]
    assert [entry["generation_id"] for entry in second["succeeded"]] == [ids[1], ids[0], ids[2]]


def test_clear_delivers_successes_without_requests(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner, op = Runner(), make(["a", "b"])
    first = runner.run(op)
    requests = len(services.ledger.requests)
    runner.ti.clear()
    assert runner.run(op) == first
    assert len(services.ledger.requests) == requests


def test_clear_with_on_clear_new_pays_for_all(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner, op = Runner(), make(["a", "b"], on_clear="new")
    runner.run(op)
    runner.ti.retry()
    runner.run(op)
    assert len(paid(services)) == 2
    runner.ti.clear()
    runner.run(op)
    assert len(paid(services)) == 4


@pytest.mark.parametrize("deferrable", [True, False])
def test_results_that_did_not_fit_are_read_again(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    runner, op = Runner(), make(["a", "b", "c"], max_in_flight=1, deferrable=deferrable)
    first = runner.run(op)
    assert runner.entries <= 5
    runner.ti.clear()
    assert runner.run(op) == first
    assert len(paid(services)) == 3


def test_reported_credits_count_without_stored_result(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v1")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    make_event = events.make_event

    def dearer(generation: Any) -> dict[str, Any]:
        event = make_event(generation)
        return {**event, "result": {**event["result"], "credits": 40}}

    monkeypatch.setattr(events, "make_event", dearer)
    requests = [f"lamp {number}" for number in range(8)]
    result = Runner().run(make(requests, max_in_flight=1, max_credits=100, on_item_failure="keep"))
    # 28 by the price list, 40 as reported: a third render could make it 108.
    assert len(paid(services)) == len(result["succeeded"]) == 2


@pytest.mark.parametrize("api", ALL_APIS)
def test_lost_reply_fails_one_item(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.fault("drop_reply", prompt="b")
    runner, op = Runner(), make(["a", "b", "c"], on_item_failure="keep")
    result = runner.run(op)
    runner.ti.retry()
    again = runner.run(op)
    assert sorted(paid(services)) == ["a", "b", "c"]
    if api == "ark":  # looks up lost submissions
        assert result["counts"]["succeeded"] == 3
        return
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "uncertain")]
    assert [(entry["key"], entry["kind"]) for entry in again["failed"]] == [("1", "uncertain")]
    runner.ti.clear()
    assert runner.run(op)["counts"]["succeeded"] == 3
    assert sorted(paid(services)) == ["a", "b", "b", "c"]


def test_failed_lookup_is_repeated(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark")
    monkeypatch.setattr(submitter, "DEFAULT_RETRY_AFTER_SECONDS", 0.05)
    services.fault("drop_reply", prompt="b")
    services.fault("cut", on="list", times=3)
    result = Runner().run(make(["a", "b", "c"]))
    assert keys(result["succeeded"]) == ["0", "1", "2"]
    assert sorted(paid(services)) == ["a", "b", "c"]


@pytest.mark.parametrize("policy", ["fail", "resubmit"])
@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("cut", {}, "Connection"),
        ("rate_limit", {}, "RateLimit"),
        ("gateway_error", {"status": 401}, "Authentication"),
        ("gateway_error", {"status": 403}, "Forbidden"),
    ],
)
def test_persistently_failed_lookup_is_left_to_the_next_try(
    services: SeedanceEmulator, connect: Connect, kind: str, options: dict[str, Any], error: str, policy: str
) -> None:
    connect("ark")
    services.fault("drop_reply", prompt="b")
    lists = services.fault(kind, on="list", times=None, **options)
    runner, op = Runner(), make(["b", "c"], deferrable=False, on_uncertain_submit=policy)
    for _ in range(2):
        with pytest.raises(
            getattr(errors, f"Seedance{error}Error"), match="One generation may have been billed"
        ):
            runner.run(op)
        runner.ti.retry()
    lists.remove()
    assert keys(runner.run(op)["succeeded"]) == ["0", "1"]
    assert paid(services) == ["b", "c"]


def test_worker_loss_between_post_and_id_leaves_one_uncertain_item(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_seedance.submission import submitter

    connect("seedanceapi-v2")

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    send = submitter.Submission._send

    def die_after_b(self: Any, call: Any, request: Any) -> Any:
        outcome = send(self, call, request)
        return outcome if request.prompt != "b" else die()

    monkeypatch.setattr(submitter.Submission, "_send", die_after_b)
    runner, op = Runner(), make(["a", "b", "c"])
    with pytest.raises(Killed):
        runner.run(op)
    monkeypatch.setattr(submitter.Submission, "_send", send)
    runner.ti.retry()
    with pytest.raises(errors.SeedanceBatchFinalError, match="uncertain") as caught:
        runner.run(op)
    assert "2 succeeded" in str(caught.value)
    assert sorted(paid(services)) == ["a", "b", "c"]


def test_changed_list_in_a_retry_submits_nothing_new(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    services.fault("fail", prompt="b", message="no")
    with pytest.raises(errors.SeedanceBatchError):
        runner.run(make(["a", "b", "c"]))
    runner.ti.retry()
    # b failed and may be replaced; c was paid for, so the request in its place is not submitted.
    with pytest.raises(errors.SeedanceBatchFinalError, match="changed"):
        runner.run(make(["a", "b", "d"]))
    assert sorted(paid(services)) == ["a", "b", "b", "c"]
    runner.ti.clear()
    assert keys(runner.run(make(["a", "b", "d"]))["succeeded"]) == ["0", "1", "2"]
    assert sorted(paid(services)) == ["a", "b", "b", "c", "d"]


@pytest.mark.parametrize("left", [["a"], []])
def test_orphans_are_reported(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, left: list[str]
) -> None:
    """Every entry reads the file of requests again, perhaps while another process writes it."""
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    write = lambda prompts: path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))  # noqa: E731
    write(["a", "b", "c"])
    services.hold()
    runner, op = Runner(), make(str(path))

    def lose(_: TaskDeferred) -> None:
        write(left)
        services.release()

    runner.before_resume = lose
    with pytest.raises(errors.SeedanceBatchFinalError, match="not in the list any more") as caught:
        runner.run(op)
    ids = {one.prompt: one.generation_id for one in services.ledger.submissions}
    assert all((ids[prompt] in str(caught.value)) is (prompt not in left) for prompt in "abc")
    write(["a", "b", "c"])
    runner.before_resume = lambda _: None
    runner.ti.clear()
    assert keys(runner.run(op)["succeeded"]) == ["0", "1", "2"]
    assert sorted(paid(services)) == ["a", "b", "c"]


def test_orphaned_credits_count_after_a_clear_with_fewer_requests(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1")
    runner, requests = Runner(), [f"lamp {number}" for number in range(6)]
    runner.run(make(requests))
    runner.ti.clear()
    few = runner.run(make(requests[:2], max_credits=7 * 28, on_item_failure="keep"))
    assert few["counts"]["total"] == 2
    runner.ti.clear()
    # The cost of all six counts, though four of them were orphans in between.
    more = runner.run(make([*requests, "one", "two"], max_credits=7 * 28, on_item_failure="keep"))
    assert (len(more["succeeded"]), more["not_submitted"]) == (7, ["7"])
    assert len(paid(services)) == 7


@pytest.mark.parametrize("count", [3, 5])
def test_unwritten_ids_travel_with_the_deferral(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(stores, "WRITE_BACKOFF_SECONDS", ())
    services.hold()
    runner = Runner()
    assert isinstance(runner.store, Store)
    away = [True]

    def before(what: str) -> None:
        if what == "set" and away[0] and len(paid(services)) >= 3:
            raise ConnectionError("the API server is away")

    def back(_: TaskDeferred) -> None:
        away[0] = False
        services.release()

    runner.store.before, runner.before_resume = before, back
    monkeypatch.setattr(submitter, "DEFAULT_RETRY_AFTER_SECONDS", 0.1)
    result = runner.run(make([f"lamp {number}" for number in range(count)], on_item_failure="keep"))
    assert result["counts"] == {"total": count, "succeeded": count, "failed": 0, "not_submitted": 0}
    assert len(paid(services)) == count


def test_consecutive_uncertain_submissions_open_the_circuit_breaker(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    fault = services.fault("gateway_error", on="submit", accept=True, times=None, status=502)
    monkeypatch.setattr(submitter, "DEFAULT_RETRY_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(submitter, "MIN_BACKOFF_SECONDS", 0.05)
    runner, requests = Runner(), [f"lamp {number}" for number in range(20)]
    with pytest.raises(errors.SeedanceServerError, match="does not answer submissions"):
        runner.run(make(requests, on_item_failure="keep", timing=BatchTiming(max_unreachable=1)))
    assert len(paid(services)) == 3
    fault.remove()
    runner.ti.retry()
    result = runner.run(make(requests, on_item_failure="keep"))
    assert (len(result["succeeded"]), len(result["failed"])) == (17, 3)
    assert len(paid(services)) == 20
    # The advice for a person is kept.
    assert all("clear this task" in entry["error"] for entry in result["failed"])


@pytest.mark.parametrize("deferrable", [True, False])
def test_nothing_is_submitted_before_retry_after(
    start_emulator: Callable[..., SeedanceEmulator],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
) -> None:
    emulator = start_emulator(render_seconds=0.3, speed=1)
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json("seedanceapi-v2"))
    emulator.fault("rate_limit", on="submit", prompt="c", retry_after=3600)
    runner = Runner()
    waits: list[float | None] = []

    class Enough(BaseException):
        """Ends the test instead of a wait of an hour."""

    def note(deferred: TaskDeferred) -> None:
        trigger = deferred.trigger
        waits.append(trigger.submit_not_before)
        if not trigger.generation_ids:
            raise Enough

    runner.before_resume = note
    with pytest.raises((Enough, errors.SeedanceRateLimitError)) as caught:
        runner.run(make(["a", "b", "c", "d"], deferrable=deferrable))
    assert paid(emulator) == ["a", "b"]
    assert sum(one.kind == "submit" for one in emulator.ledger.requests) == 3
    if deferrable:
        assert len({round(moment or 0) for moment in waits}) == 1
        assert (waits[-1] or 0) > time.time() + 3000
    else:
        assert (getattr(caught.value, "retry_after", None) or 0) > 3000


def test_manifest_is_complete_when_the_task_fails_later(
    start_emulator: Callable[..., SeedanceEmulator],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    emulator = start_emulator(render_seconds=0.1, speed=1)
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json("seedanceapi-v2"))
    emulator.fault("rate_limit", on="submit", prompt="c", times=None, retry_after=3600)
    path = tmp_path / "manifest.jsonl"
    with pytest.raises(errors.SeedanceRateLimitError):
        Runner().run(make(["a", "b", "c"], deferrable=False, max_in_flight=2, manifest_path=str(path)))
    assert [line["status"] for line in lines(path)] == ["succeeded", "succeeded"]


def test_manifest_must_not_replace_the_requests(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    path.write_text('"a lamp"\n')
    with pytest.raises(errors.SeedanceConfigurationError, match="file of the requests"):
        Runner().run(make(str(path), manifest_path=str(path)))
    assert path.read_text() == '"a lamp"\n'


@pytest.mark.parametrize("api", ALL_APIS)
def test_argument_of_an_unusable_type_fails_one_item(
    services: SeedanceEmulator, connect: Connect, api: str
) -> None:
    connect(api)
    requests = ["a", {"prompt": "b", "model": ["x"]}, {"prompt": "c", "model": {"x": 1}}]
    result = Runner().run(make(requests, on_item_failure="keep"))
    assert keys(result["succeeded"]) == ["0"]
    assert {entry["kind"] for entry in result["failed"]} == {"request"}


def test_unreadable_records_are_not_an_empty_store(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "GROUP_SIZE", 10)
    runner, op = Runner(), make([f"lamp {number}" for number in range(15)])
    runner.run(op)
    assert runner.store is not None
    good = dict(runner.store.texts)
    for damage in (
        {"seedance_records": "{}"},
        {"seedance_records": '{"version": 99}'},
        {"seedance_records_1": "[]"},
    ):
        runner.store.texts = {**good, **damage}
        runner.ti.clear()
        with pytest.raises(errors.SeedanceRecordError):
            runner.run(op)
    runner.store.texts = {"seedance_records": good["seedance_records"]}
    with pytest.raises(errors.SeedanceRecordError, match="missing"):
        runner.run(op)
    assert len(paid(services)) == 15


def test_nothing_is_submitted_without_a_record(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    assert runner.store is not None
    runner.store.break_down("set")
    with pytest.raises(errors.SeedanceStateError, match="could not be written"):
        runner.run(make(["a"]))
    assert paid(services) == []


def test_deferral_carries_the_records_below_airflow_3_3(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="no")
    runner = Runner(store=None)
    result = runner.run(make(["a", "b", "c"], max_in_flight=1, on_item_failure="keep"))
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    assert sorted(paid(services)) == ["a", "b", "c"]
    services.fault("fail", prompt="b", message="no")
    with pytest.raises(errors.SeedanceUnrecordedError, match="no task state store"):
        Runner(store=None).run(make(["a", "b", "c"]))


@pytest.mark.parametrize("stored", [True, False])
def test_alternating_lost_replies_and_rate_limits_submit_an_item_twice_at_most(
    services: SeedanceEmulator, connect: Connect, stored: bool
) -> None:
    connect("runbase")
    for _ in range(4):
        services.fault("drop_reply")
        services.fault("rate_limit", retry_after=0)
    op = make(["A lamp"], on_item_failure="keep", on_uncertain_submit="resubmit")
    (failed,) = Runner(store=stored).run(op)["failed"]
    assert failed["kind"] == "uncertain"
    assert len(paid(services)) == 2
