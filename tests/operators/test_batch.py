"""Result, failures, waiting and arguments of the batch operator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from helpers import ALL_APIS
from support import SECRET, Log, make_context
from versions import ENDING_FROM_TRIGGERS

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.batch_run import BatchTiming
from operators.batch_runner import Connect, Runner, keys, make, paid

# ---------------------------------------------------------------------- identity of requests


def test_inputs_that_differ_in_their_query_are_different_requests(
    services: SeedanceEmulator, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleared batch whose list is in another order delivers to each item its own render."""
    connect("ark")
    requests = [
        {"prompt": "A lamp", "images": [f"https://b.example/uc?id={name}"], "key": name} for name in "AB"
    ]
    runner = Runner()
    first = runner.run(make(requests))
    runner.ti.clear()
    again = runner.run(make(requests[::-1]))
    ids = [{item["key"]: item["generation_id"] for item in result["succeeded"]} for result in (first, again)]
    assert ids[0] == ids[1]
    assert len(paid(services)) == 2
    assert "signatures" not in caplog.text


def test_inputs_that_differ_in_their_signature_only_are_identical_requests(
    services: SeedanceEmulator, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect("ark")
    requests = [
        {"prompt": "A lamp", "images": [f"https://b.example/a.png?token={name}"], "key": name}
        for name in "AB"
    ]
    assert len(Runner().run(make(requests))["succeeded"]) == 2
    assert "1 requests differ from others in the signatures of their links only" in caplog.text


# ---------------------------------------------------------------------- result


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("api", ALL_APIS)
def test_each_request_is_rendered_once_and_results_keep_the_order(
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
    reported = [entry["credits"] for entry in result["succeeded"] if entry["credits"] is not None]
    assert result["credits"] == (pytest.approx(sum(reported)) if reported else None)


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


def test_identical_requests_are_submitted_separately(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    result = Runner().run(make(["a lamp"] * 3))
    assert len({entry["generation_id"] for entry in result["succeeded"]}) == 3


def test_empty_list_succeeds(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")
    assert Runner().run(make([]))["counts"]["total"] == 0


def test_state_store_is_read_once_per_group_and_values_stay_small(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    monkeypatch.setattr(task_state, "GROUP_SIZE", 10)
    runner = Runner()
    runner.run(make([f"lamp {number}" for number in range(25)], max_in_flight=10))
    assert runner.store is not None
    gets = [key for what, key in runner.store.reads_and_writes if what == "get"]
    assert len(gets) <= runner.entries * (1 + 25 / 10)
    assert max(len(text) for text in runner.store.texts.values()) <= 64 * 1024
    assert len(runner.store.texts) == 3


def test_deferral_contains_no_secret(services: SeedanceEmulator, connect: Connect) -> None:
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


def test_a_failed_item_stops_no_other_and_a_retry_pays_only_for_it(
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


def test_keep_returns_successes_and_failures(services: SeedanceEmulator, connect: Connect) -> None:
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


def test_unsupported_requests_are_refused_before_anything_is_sent(
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


def test_refused_api_key_fails_the_task(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=401, message="no")
    with pytest.raises(errors.SeedanceAuthenticationError, match="1 succeeded"):
        Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert paid(services) == ["a"]


def test_forbidden_item_fails_alone(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=403, message="not in your plan")
    result = Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert keys(result["succeeded"]) == ["0", "2"]
    assert [(entry["key"], entry["kind"]) for entry in result["failed"]] == [("1", "forbidden")]


def test_consecutive_forbidden_items_open_the_circuit_breaker(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", on="submit", times=None, status=403, message="blocked")
    with pytest.raises(errors.SeedanceForbiddenError, match="3 failed, 5 not submitted"):
        Runner().run(make([str(number) for number in range(8)], on_item_failure="keep"))
    assert paid(services) == []


def test_insufficient_credits_report_items_not_submitted(
    services: SeedanceEmulator, connect: Connect
) -> None:
    connect("seedanceapi-v2")
    services.fault("refuse", prompt="b", status=402, message="no credits")
    result = Runner().run(make(["a", "b", "c"], on_item_failure="keep"))
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0"], ["1", "2"])


def test_retry_waits_again_for_timed_out_items(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    with pytest.raises(errors.SeedanceBatchError, match="timeout"):
        runner.run(make(["a", "b"], timeout=0.05))
    services.release()
    runner.ti.retry()
    assert runner.run(make(["a", "b"]))["counts"]["succeeded"] == 2
    assert sorted(paid(services)) == ["a", "b"]


# ---------------------------------------------------------------------- waiting


def test_rate_limit_in_the_middle_defers(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api")
    services.fault("rate_limit", prompt="c", retry_after=1)
    runner = Runner()
    result = runner.run(make(["a", "b", "c", "d"]))
    assert result["counts"]["succeeded"] == 4
    assert sorted(paid(services)) == ["a", "b", "c", "d"]
    moments = [deferred.trigger.submit_not_before for deferred in runner.deferrals]
    assert any(moment is not None for moment in moments)


def test_synchronous_task_raises_a_long_rate_limit(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedance2api")
    services.fault("rate_limit", prompt="a", retry_after=1800)
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        Runner().run(make(["a"], deferrable=False))
    assert caught.value.retry_after
    assert caught.value.retry_after > 1000


def test_unreachable_service_fails_the_task(
    services: SeedanceEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("seedanceapi-v2")
    url = services.connection("seedanceapi-v2")
    monkeypatch.setenv(
        "AIRFLOW_CONN_SEEDANCE_DEFAULT", json.dumps({**url, "host": "http://127.0.0.1:9/seedanceapi-v2/v2"})
    )
    with pytest.raises(errors.SeedanceConnectionError):
        Runner().run(make(["a"], timing=BatchTiming(max_unreachable=0)))


def test_foreign_event_ends_nothing(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    op, context = make(["a"]), make_context(runner.store, runner.ti)
    with pytest.raises(TaskDeferred) as caught:
        op.execute(context)
    foreign = {
        "generation_id": services.ledger.submissions[0].generation_id,
        "outcome": "ended",
        "result": {},
    }
    for event in (None, {}, "done", {"outcome": "many", "ended": [foreign], "turn": "yes"}):
        with pytest.raises(TaskDeferred):
            op.resume_execution(
                caught.value.method_name, {**(caught.value.kwargs or {}), "event": event}, context
            )
    assert len(paid(services)) == 1


def test_progress_is_logged(services: SeedanceEmulator, connect: Connect, log: Log) -> None:
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
def test_invalid_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=next(iter(arguments))):
        make(["a"], **arguments)


def test_each_render_has_its_own_deadline(services: SeedanceEmulator, connect: Connect) -> None:
    connect("seedanceapi-v2")
    services.hold()
    runner = Runner()
    before = time.time()

    def look(deferred: TaskDeferred) -> None:
        services.release()
        (state,) = deferred.trigger.pending
        deadline, submitted_at = state.deadline, state.submitted_at
        assert before + 1800 <= deadline <= time.time() + 1800
        assert before - 1 <= submitted_at <= time.time()

    runner.before_resume = look
    runner.run(make(["a"], timeout=1800))
