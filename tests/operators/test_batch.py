"""The batch operator against the emulator, with a state store in memory and a runner in Airflow's place."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from helpers import ALL_APIS
from hostile.targets import check_storable
from support import SECRET, Log, Store, TaskInstance, deferral, make_context, on_loop
from versions import ENDING_FROM_TRIGGERS, deserialize, serialize

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.batch_run import BatchTiming
from airflow_provider_seedance.operators.seedance import SeedanceGenerateVideoBatchOperator
from airflow_provider_seedance.submission import store as stores
from airflow_provider_seedance.submission import submitter
from airflow_provider_seedance.triggers import seedance as triggers

Connect = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_race_to_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "EARLIEST", 0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """What the operator logs."""
    log = Log()
    monkeypatch.setattr(SeedanceGenerateVideoBatchOperator, "log", log, raising=False)
    return log


def make(
    requests: Any, timing: BatchTiming | None = None, **arguments: Any
) -> SeedanceGenerateVideoBatchOperator:
    op = SeedanceGenerateVideoBatchOperator(
        **{"task_id": "task", "requests": requests, "poll_interval": 0.01, **arguments}
    )
    op.timing = timing
    return op


class Runner:
    """Runs tries of one task instance: resumes deferrals, keeps the store, counts entries."""

    def __init__(self, *, store: Store | bool | None = True) -> None:
        self.store = Store() if store is True else store or None
        self.ti = TaskInstance()
        self.entries = 0
        self.deferrals: list[TaskDeferred] = []
        #: Called before an entry resumes.
        self.before_resume: Callable[[TaskDeferred], None] = lambda deferred: None

    def run(self, op: SeedanceGenerateVideoBatchOperator) -> Any:
        context = make_context(self.store, self.ti)
        call: Callable[[], Any] = lambda: op.execute(context)  # noqa: E731
        while True:
            self.entries += 1
            try:
                return call()
            except TaskDeferred as deferred:
                self.deferrals.append(deferred)
                self.before_resume(deferred)
                call = self._resume(op, deferred, context)

    def _resume(self, op: Any, deferred: TaskDeferred, context: Any) -> Callable[[], Any]:
        path, kwargs = deferred.trigger.serialize()
        assert path.endswith("SeedanceBatchTrigger")
        trigger = triggers.SeedanceBatchTrigger(**deserialize(serialize(kwargs)))

        async def first() -> Any:
            async for event in trigger.run():
                return event
            raise AssertionError("no event")

        event = json.loads(json.dumps(on_loop(first()).payload))
        again = deserialize(serialize(deferred.kwargs))
        return lambda: op.resume_execution(deferred.method_name, {**again, "event": event}, context)


def paid(emulator: SeedanceEmulator) -> list[str]:
    return [submitter.prompt for submitter in emulator.ledger.submissions]


def keys(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["key"] for entry in entries]


# ---------------------------------------------------------------------- the result


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("api", ALL_APIS)
def test_every_request_is_rendered_once_and_returned_in_order(
    services: SeedanceEmulator, connect: Connect, api: str, deferrable: bool
) -> None:
    connect(api)
    requests = ["a lamp", {"prompt": "a shoe", "key": "shoe", "model": None}, {"prompt": "a hat"}]
    result = Runner().run(make(requests, max_in_flight=2, deferrable=deferrable))
    assert sorted(paid(services)) == ["a hat", "a lamp", "a shoe"]
    assert keys(result["succeeded"]) == ["0", "shoe", "2"]
    assert (result["failed"], result["not_submitted"], result["manifest"]) == ([], [], None)
    assert result["counts"] == {"total": 3, "succeeded": 3, "failed": 0, "not_submitted": 0}
    single = {name for name in result["succeeded"][0] if name != "key"}
    assert single == {
        *("generation_id", "api", "media", "status", "model", "url", "urls", "duration", "resolution"),
        *("credits", "cost_usd", "created_at", "completed_at", "expires_at"),
    }
    assert {entry["status"] for entry in result["succeeded"]} == {"succeeded"}
    told = [entry["credits"] for entry in result["succeeded"] if entry["credits"] is not None]
    assert result["credits"] == (pytest.approx(sum(told)) if told else None)


def test_no_more_than_max_in_flight_at_a_time(
    start_emulator: Callable[..., SeedanceEmulator], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = start_emulator(render_seconds=0.3, speed=1)
    monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", emulator.connection_json("ark"))
    runner = Runner()
    flying: list[int] = []
    runner.before_resume = lambda _: flying.append(
        sum(generation.status in ("queued", "running") for generation in emulator.generations)
    )
    result = runner.run(make([f"lamp {number}" for number in range(23)], max_in_flight=5))
    assert result["counts"]["succeeded"] == 23
    assert len(emulator.ledger.submissions) == 23
    assert max(flying) <= 5


def test_identical_requests_are_distinct_takes(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    result = Runner().run(make(["a lamp"] * 3))
    assert len({entry["generation_id"] for entry in result["succeeded"]}) == 3


def test_an_empty_list_is_no_failure(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    assert Runner().run(make([]))["counts"]["total"] == 0


def test_the_state_store_is_read_once_per_hundred_and_no_value_is_large(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    runner.run(make([f"lamp {number}" for number in range(250)], max_in_flight=100))
    assert runner.store is not None
    gets = [key for what, key in runner.store.reads_and_writes if what == "get"]
    assert len(gets) <= runner.entries * (1 + 250 / 100)
    assert max(len(text) for text in runner.store.texts.values()) <= 64 * 1024
    assert len(runner.store.texts) == 3


def test_nothing_secret_is_deferred_with(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    services.hold()
    runner = Runner()
    images = ["https://b.example/in.png?X-Signature=topsecret"]

    def look(deferred: TaskDeferred) -> None:
        services.release()
        shown = repr((deferred.trigger.serialize(), deferred.kwargs, deferred.trigger))
        for secret in ("heron", SECRET, "topsecret", services.url):
            assert secret not in shown

    runner.before_resume = look
    runner.run(make([{"prompt": "a heron", "images": images}]))


# ---------------------------------------------------------------------- failures


def test_one_that_fails_stops_no_other_and_a_retry_pays_only_for_it(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="GPU on fire")
    runner, op = Runner(), make(["a", "b", "c"])
    with pytest.raises(
        errors.SeedanceBatchError, match=r"1 of 3 renders failed: 1 \(failed: .*GPU on fire"
    ) as caught:
        runner.run(op)
    assert caught.value.retry_helps
    runner.ti.retry()
    result = runner.run(op)
    assert sorted(paid(services)) == ["a", "b", "b", "c"]
    assert keys(result["succeeded"]) == ["0", "1", "2"]


def test_keep_returns_both(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="GPU on fire")
    result = Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert keys(result["succeeded"]) == ["0", "2"]
    (failed,) = result["failed"]
    assert (failed["key"], failed["kind"]) == ("1", "failed")
    assert "GPU on fire" in failed["error"]
    assert failed["generation_id"]
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}


def test_moderation_and_bad_requests_are_not_retried(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=400, message="that cannot be")
    services.fault("fail", prompt="c", message="content policy violation: moderation")
    runner, op = Runner(), make(["a", "b", "c"])
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        runner.run(op)
    assert not caught.value.retry_helps
    runner.ti.retry()
    with pytest.raises(errors.SeedanceBatchFinalError, match="2 of 3"):
        runner.run(op)
    assert sorted(paid(services)) == ["a", "c"]
    runner.ti.clear()
    assert keys(runner.run(op)["succeeded"]) == ["0", "1", "2"]
    assert sorted(paid(services)) == ["a", "b", "c", "c"]


def test_what_the_service_cannot_do_is_refused_before_anything_is_sent(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    requests = ["a", {"prompt": "b", "duration": 999}]
    with pytest.raises(errors.SeedanceRequestError, match=r"1 of 2 requests.*duration=999"):
        Runner().run(make(requests))
    assert paid(services) == []
    result = Runner().run(make(requests, on_item_failure="keep"))
    assert paid(services) == ["a"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "request")]


def test_a_key_that_is_refused_is_nobodys_item_failure(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=401, message="no")
    with pytest.raises(errors.SeedanceAuthenticationError, match="1 succeeded"):
        Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert paid(services) == ["a"]


def test_one_item_that_is_forbidden_is_its_own_matter(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=403, message="not in your plan")
    result = Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert keys(result["succeeded"]) == ["0", "2"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "forbidden")]


def test_a_key_to_which_everything_is_forbidden_stops_submitting(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", on="submit", times=None, status=403, message="blocked")
    with pytest.raises(errors.SeedanceForbiddenError, match="3 failed, 5 not submitted"):
        Runner().run(make([str(number) for number in range(8)], on_item_failure="keep"))
    assert paid(services) == []


def test_no_credits_left_is_told_with_what_was_not_submitted(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=402, message="no credits")
    result = Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0"], ["1", "2"])


def test_patience_ends_for_one_and_a_retry_waits_for_it_again(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    with pytest.raises(errors.SeedanceBatchError, match="timeout"):
        runner.run(make(["a", "b"], timeout=0.05))
    services.release()
    runner.ti.retry()
    assert runner.run(make(["a", "b"]))["counts"]["succeeded"] == 2
    assert sorted(paid(services)) == ["a", "b"]


# ---------------------------------------------------------------------- never twice, never lost


def test_a_retry_after_a_lost_worker_goes_on_where_it_was(
    services: SeedanceEmulator, connect: Connect
) -> None:
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


def test_order_does_not_matter(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    first = runner.run(make(["a", "b", "a"]))
    runner.ti.clear()
    second = runner.run(make(["b", "a", "a"]))
    assert sorted(paid(services)) == ["a", "a", "b"]
    ids = [entry["generation_id"] for entry in first["succeeded"]]
    assert [entry["generation_id"] for entry in second["succeeded"]] == [ids[1], ids[0], ids[2]]


def test_a_clear_delivers_what_succeeded_without_asking(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner, op = Runner(), make(["a", "b"])
    first = runner.run(op)
    asked = len(services.ledger.requests)
    runner.ti.clear()
    assert runner.run(op) == first
    assert len(services.ledger.requests) == asked


def test_a_clear_for_another_take_pays_for_all(services: SeedanceEmulator, connect: Connect) -> None:
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
def test_results_without_room_are_asked_for_again(
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


def test_credits_count_even_where_there_is_no_room_for_the_result(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v1")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    make_event = triggers.make_event

    def dearer(generation: Any) -> dict[str, Any]:
        event = make_event(generation)
        return {**event, "result": {**event["result"], "credits": 40}}

    monkeypatch.setattr(triggers, "make_event", dearer)
    requests = [f"lamp {number}" for number in range(8)]
    result = Runner().run(make(requests, max_in_flight=1, max_credits=100, on_item_failure="keep"))
    # 28 by the list, 40 in truth: a third could make it 108.
    assert len(paid(services)) == len(result["succeeded"]) == 2


@pytest.mark.parametrize("api", ALL_APIS)
def test_a_lost_reply_is_one_items_matter(services: SeedanceEmulator, connect: Connect, api: str) -> None:
    connect(api)
    services.fault("drop_reply", prompt="b")
    runner, op = Runner(), make(["a", "b", "c"], on_item_failure="keep")
    result = runner.run(op)
    runner.ti.retry()
    again = runner.run(op)
    assert sorted(paid(services)) == ["a", "b", "c"]
    if api == "ark":  # it can be asked
        assert result["counts"]["succeeded"] == 3
        return
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "uncertain")]
    assert [(entry["key"], entry["kind"]) for entry in again["failed"]] == [("1", "uncertain")]
    runner.ti.clear()
    assert runner.run(op)["counts"]["succeeded"] == 3
    assert sorted(paid(services)) == ["a", "b", "b", "c"]


def test_what_cannot_be_looked_up_at_the_moment_is_looked_up_later(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("ark")
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
def test_what_cannot_be_looked_up_for_long_is_left_to_the_next_try(
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


def test_a_worker_lost_between_post_and_id_leaves_one_uncertain(
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


def test_a_list_that_changed_in_a_retry_pays_nothing_new(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    services.fault("fail", prompt="b", message="no")
    with pytest.raises(errors.SeedanceBatchError):
        runner.run(make(["a", "b", "c"]))
    runner.ti.retry()
    # b failed and may be replaced; c was paid for, so what stands in its place is nobody's wish.
    with pytest.raises(errors.SeedanceBatchFinalError, match="changed"):
        runner.run(make(["a", "b", "d"]))
    assert sorted(paid(services)) == ["a", "b", "b", "c"]
    runner.ti.clear()
    assert keys(runner.run(make(["a", "b", "d"]))["succeeded"]) == ["0", "1", "2"]
    assert sorted(paid(services)) == ["a", "b", "b", "c", "d"]


@pytest.mark.parametrize("left", [["a"], []])
def test_what_vanishes_from_the_list_is_not_forgotten(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, left: list[str]
) -> None:
    """The file of the requests is read again by every entry, perhaps while somebody writes it."""
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


def test_a_clear_with_fewer_requests_makes_nobody_pay_again(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1")
    runner, requests = Runner(), [f"lamp {number}" for number in range(6)]
    runner.run(make(requests))
    runner.ti.clear()
    few = runner.run(make(requests[:2], max_credits=7 * 28, on_item_failure="keep"))
    assert few["counts"]["total"] == 2
    runner.ti.clear()
    # What the six have cost counts, though four of them were left behind in between.
    more = runner.run(make([*requests, "one", "two"], max_credits=7 * 28, on_item_failure="keep"))
    assert (len(more["succeeded"]), more["not_submitted"]) == (7, ["7"])
    assert len(paid(services)) == 7


@pytest.mark.parametrize("count", [3, 5])
def test_ids_that_cannot_be_written_travel_with_the_deferral(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(stores, "WRITE_PAUSES", ())
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


def test_a_service_that_stops_answering_is_not_paid_blindly(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    fault = services.fault("gateway_error", on="submit", accept=True, times=None, status=502)
    monkeypatch.setattr(submitter, "DEFAULT_RETRY_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(submitter, "MIN_BACKOFF_SECONDS", 0.05)
    runner, requests = Runner(), [f"lamp {number}" for number in range(60)]
    with pytest.raises(errors.SeedanceServerError, match="does not answer submissions"):
        runner.run(make(requests, on_item_failure="keep", timing=BatchTiming(max_unreachable=1)))
    assert len(paid(services)) == 3
    fault.remove()
    runner.ti.retry()
    result = runner.run(make(requests, on_item_failure="keep"))
    assert (len(result["succeeded"]), len(result["failed"])) == (57, 3)
    assert len(paid(services)) == 60
    # What a person needs to know was not lost on the way.
    assert all("clear this task" in entry["error"] for entry in result["failed"])


@pytest.mark.parametrize("deferrable", [True, False])
def test_after_a_refusal_nothing_is_submitted_before_its_time(
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
        """Nobody waits for an hour in a test."""

    def note(deferred: TaskDeferred) -> None:
        trigger = deferred.trigger
        waits.append(trigger.moment)
        if not trigger.generations:
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


def test_a_manifest_is_complete_whatever_comes_after(
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


def test_a_manifest_cannot_take_the_place_of_the_requests(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    path.write_text('"a lamp"\n')
    with pytest.raises(errors.SeedanceConfigurationError, match="file of the requests"):
        Runner().run(make(str(path), manifest_path=str(path)))
    assert path.read_text() == '"a lamp"\n'


@pytest.mark.parametrize("api", ALL_APIS)
def test_an_argument_of_a_strange_type_is_one_items_matter(
    services: SeedanceEmulator, connect: Connect, api: str
) -> None:
    connect(api)
    requests = ["a", {"prompt": "b", "model": ["x"]}, {"prompt": "c", "model": {"x": 1}}]
    result = Runner().run(make(requests, on_item_failure="keep"))
    assert keys(result["succeeded"]) == ["0"]
    assert {entry["kind"] for entry in result["failed"]} == {"request"}


def test_records_that_cannot_be_read_are_not_none(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner, op = Runner(), make([f"lamp {number}" for number in range(150)])
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
    assert len(paid(services)) == 150


def test_no_record_no_submission(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    runner = Runner()
    assert runner.store is not None
    runner.store.break_down("set")
    with pytest.raises(errors.SeedanceStateError, match="could not be written"):
        runner.run(make(["a"]))
    assert paid(services) == []


def test_below_airflow_3_3_the_deferral_carries_the_records(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="no")
    runner = Runner(store=None)
    result = runner.run(make(["a", "b", "c"], max_in_flight=1, on_item_failure="keep"))
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    assert sorted(paid(services)) == ["a", "b", "c"]
    services.fault("fail", prompt="b", message="no")
    with pytest.raises(errors.SeedanceUnrecordedError, match="no task state store"):
        Runner(store=None).run(make(["a", "b", "c"]))


@pytest.mark.parametrize("reason", [TriggerFailureReason.TRIGGER_TIMEOUT, "Trigger failure"])
@pytest.mark.parametrize("store", [True, False])
def test_a_deferral_that_airflow_ended_is_never_paid_for_again(
    services: SeedanceEmulator, connect: Connect, store: bool, reason: str
) -> None:
    """Airflow then hands on why, and nothing of what the deferral carried."""
    connect("seedanceapi-v2")
    services.hold()
    op, context = make(["a", "b"]), make_context(Store() if store else None)
    deferral(lambda: op.execute(context))
    resume = partial(
        op.resume_execution, TRIGGER_FAIL_REPR, {"error": reason, "traceback": ["Traceback"]}, context
    )
    if not store:
        with pytest.raises(errors.SeedanceUnrecordedError, match="may be billed") as caught:
            resume()
        assert not caught.value.retry_helps
    elif reason == TriggerFailureReason.TRIGGER_TIMEOUT:
        assert len(deferral(resume).trigger.generations) == 2
    else:
        with pytest.raises(errors.SeedanceServerError, match="a retry waits for them again"):
            resume()
    assert sorted(paid(services)) == ["a", "b"]


# ---------------------------------------------------------------------- money


def test_max_credits_stops_before_the_next_could_exceed_it(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["a"]))["credits"]
    result = Runner().run(make(["a", "b", "c", "d"], max_credits=2.5 * price, on_item_failure="keep"))
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0", "1"], ["2", "3"])
    assert result["credits"] == 2 * price
    runner, op = Runner(), make(["a", "b", "c", "d"], max_credits=2.5 * price)
    with pytest.raises(errors.SeedanceBatchFinalError, match=r"2 were not submitted.*max_credits"):
        runner.run(op)


def test_what_was_really_consumed_counts_against_max_credits(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    # This service tells that a failed render has consumed nothing.
    services.fault("fail", prompt="a", message="no")
    runner, op = Runner(), make(["a", "b"], max_credits=2 * price)
    with pytest.raises(errors.SeedanceBatchError):
        runner.run(op)
    runner.ti.retry()
    assert runner.run(op)["credits"] == 2 * price
    assert sorted(paid(services)) == ["a", "a", "b", "z"]


def test_an_uncertain_one_counts_against_max_credits(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v1")
    price = Runner().run(make(["z"]))["credits"]
    services.fault("drop_reply", prompt="a")
    result = Runner().run(make(["a", "b", "c"], max_credits=2 * price, on_item_failure="keep"))
    assert (keys(result["succeeded"]), keys(result["failed"])) == (["1"], ["0"])
    assert result["not_submitted"] == ["2"]


def test_max_credits_without_prices_is_refused(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    with pytest.raises(errors.SeedanceConfigurationError, match="publishes no price"):
        Runner().run(make(["a"], max_credits=10))
    assert paid(services) == []


@pytest.mark.parametrize("api", ["seedanceapi-v1", "ark"])
def test_a_dry_run_sends_nothing(services: SeedanceEmulator, connect: Connect, log: Log, api: str) -> None:
    connect(api)
    result = Runner().run(make(["a", "b"], dry_run=True))
    assert services.ledger.requests == []
    assert result["not_submitted"] == ["0", "1"]
    assert result["estimate"]["renders"] == 2
    if api == "ark":
        assert (result["credits"], result["estimate"]["unknown"]) == (None, 2)
        assert "unknown" in " ".join(log.lines)
    else:
        assert result["credits"] == 2 * Runner().run(make(["a"]))["credits"]


# ---------------------------------------------------------------------- manifest and files


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_manifest_carries_the_items(services: SeedanceEmulator, connect: Connect, tmp_path: Path) -> None:
    connect("seedanceapi-v2")
    services.fault("fail", prompt="b", message="no")
    path = tmp_path / "out" / "manifest.jsonl"
    path.parent.mkdir()
    op = make(["a", "b", "c"], manifest_path=f"file://{path}", on_item_failure="keep", max_in_flight=1)
    runner = Runner()
    seen: list[int] = []
    runner.before_resume = lambda _: seen.append(len(lines(path)) if path.exists() else 0)
    result = runner.run(op)
    assert (result["succeeded"], result["failed"], result["not_submitted"]) == ([], [], [])
    assert result["manifest"] == f"file://{path}"
    assert result["counts"] == {"total": 3, "succeeded": 2, "failed": 1, "not_submitted": 0}
    written = lines(path)
    assert [(line["key"], line["status"]) for line in written] == [
        ("0", "succeeded"),
        ("1", "failed"),
        ("2", "succeeded"),
    ]
    assert written[0]["url"]
    assert written[1]["kind"] == "failed"
    assert seen == [0, 1, 2]


def test_a_manifest_that_cannot_be_written_is_told_before_anything_is_paid(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    (tmp_path / "file").write_text("")
    for path in ("nosuchstore://bucket/m.jsonl", f"{tmp_path}/file/m.jsonl"):
        with pytest.raises((errors.SeedanceConfigurationError, errors.SeedanceMediaError)):
            Runner().run(make(["a"], manifest_path=path))
    assert paid(services) == []


def test_results_come_back_from_the_manifest(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    path = tmp_path / "manifest.jsonl"
    runner, op = Runner(), make(["a", "b"], manifest_path=str(path))
    runner.run(op)
    asked, before = len(services.ledger.requests), lines(path)
    runner.ti.clear()
    runner.run(op)
    assert len(services.ledger.requests) == asked
    assert lines(path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"generation_id": ["g"]},
        {"generation_id": {}},
        {"urls": []},
        {"urls": "x"},
        {"media": ["video"]},
        {"status": ["succeeded"]},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"credits": "abc"},
        {"credits": [1]},
        {"credits": math.nan},
        {"cost_usd": math.inf},
        {"duration": "long"},
        {"model": {"a": 1}, "resolution": "\ud800\0"},
    ],
    ids=str,
)
def test_rubbish_in_the_manifest_neither_stops_a_campaign_nor_loses_a_render(
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    connect("seedance2api")
    monkeypatch.setattr(task_state, "MAX_VALUE_BYTES", 1)
    path = tmp_path / "manifest.jsonl"
    runner, op = Runner(), make(["a", "b"], manifest_path=str(path))
    runner.run(op)
    first, second = lines(path)
    path.write_text(f"{json.dumps({**first, **changes})}\n{json.dumps(second)}\n")
    runner.ti.clear()
    result = runner.run(op)
    assert result["counts"]["succeeded"] == 2
    check_storable([result, lines(path)])
    assert [line["urls"] for line in lines(path)] == [first["urls"], second["urls"]]
    assert len(paid(services)) == 2


def test_a_line_that_is_nested_too_deep_stops_no_other(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.jsonl"
    deep = '{"prompt": "b", "extra_params": {"x": ' + "[" * 600 + "]" * 600 + "}}"
    path.write_text(f'{{"prompt": "a"}}\n{deep}\n')
    result = Runner().run(make(str(path), on_item_failure="keep"))
    assert paid(services) == ["a"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "request")]


def test_requests_come_from_a_file(services: SeedanceEmulator, connect: Connect, tmp_path: Path) -> None:
    connect("seedanceapi-v2")
    path = tmp_path / "requests.csv"
    path.write_text("key,prompt,duration\nlamp,a lamp,5\nshoe,a shoe,10\n")
    result = Runner().run(make(str(path)))
    assert [(entry["key"], entry["duration"]) for entry in result["succeeded"]] == [("lamp", 5), ("shoe", 10)]


# ---------------------------------------------------------------------- waiting


def test_a_quota_refusal_in_the_middle_waits_without_a_worker(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.fault("rate_limit", prompt="c", retry_after=1)
    runner = Runner()
    result = runner.run(make(["a", "b", "c", "d"]))
    assert result["counts"]["succeeded"] == 4
    assert sorted(paid(services)) == ["a", "b", "c", "d"]
    moments = [deferred.trigger.moment for deferred in runner.deferrals]
    assert any(moment is not None for moment in moments)


def test_a_worker_that_waits_itself_raises_what_a_quota_refuses(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedance2api")
    services.fault("rate_limit", prompt="a", retry_after=1800)
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        Runner().run(make(["a"], deferrable=False))
    assert caught.value.retry_after
    assert caught.value.retry_after > 1000


def test_a_service_that_cannot_be_reached_fails_the_task_in_the_end(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    url = services.connection("seedanceapi-v2")
    monkeypatch.setenv(
        "AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps({**url, "host": "http://127.0.0.1:9/seedanceapi-v2/v2"})
    )
    with pytest.raises(errors.SeedanceConnectionError):
        Runner().run(make(["a"], timing=BatchTiming(max_unreachable=0)))


def test_an_event_of_anybody_else_ends_nothing(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    op, context = make(["a"]), make_context(runner.store, runner.ti)
    with pytest.raises(TaskDeferred) as caught:
        op.execute(context)
    told = {"generation_id": services.ledger.submissions[0].generation_id, "outcome": "ended", "result": {}}
    for event in (None, {}, "done", {"outcome": "many", "ended": [told], "turn": "yes"}):
        with pytest.raises(TaskDeferred):
            op.resume_execution(
                caught.value.method_name, {**(caught.value.kwargs or {}), "event": event}, context
            )
    assert len(paid(services)) == 1


def test_progress_is_told(services: SeedanceEmulator, connect: Connect, log: Log) -> None:
    connect("seedanceapi-v1")
    Runner().run(make(["a", "b", "c"], max_in_flight=1))
    said = "\n".join(log.lines)
    assert "1 of 3 done, 0 failed, 1 in flight, 1 waiting" in said
    assert "to go" in said
    assert log.lines[-1].startswith("Batch of 3 renders: 3 succeeded, 0 failed, 0 not submitted; cost ")


def test_end_from_trigger_is_refused() -> None:
    why = "cannot be used with a batch" if ENDING_FROM_TRIGGERS.there else r"needs Airflow 3\.3"
    with pytest.raises(errors.SeedanceConfigurationError, match=f"end_from_trigger {why}"):
        make(["a"], end_from_trigger=True)


@pytest.mark.parametrize(
    "arguments",
    [{"max_in_flight": 0}, {"max_in_flight": True}, {"on_item_failure": "skip"}, {"dry_run": "yes"}],
)
def test_arguments_are_judged(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=next(iter(arguments))):
        make(["a"], **arguments)


def test_a_deadline_is_the_renders_own(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    before = time.time()

    def look(deferred: TaskDeferred) -> None:
        services.release()
        ((_, deadline, submitted_at, _, _),) = deferred.trigger.generations
        assert before + 1800 <= deadline <= time.time() + 1800
        assert before - 1 <= submitted_at <= time.time()

    runner.before_resume = look
    runner.run(make(["a"], timeout=1800))
