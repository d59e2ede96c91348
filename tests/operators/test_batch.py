"""Result, failures, waiting and arguments of the batch operator."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import Any

import pytest
from helpers import ALL_APIS
from support import SECRET, Log
from versions import ENDING_FROM_TRIGGERS

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger import task_state
from airflow_provider_seedance.operators.batch_run import BatchTiming
from operators.batch_runner import Batch, keys, kinds, make


def requests_with_images(url: str) -> list[dict[str, Any]]:
    return [{"prompt": "A lamp", "images": [url + name], "key": name} for name in "AB"]


@pytest.mark.parametrize("api", ["ark"])
def test_inputs_that_differ_in_more_than_a_signature(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    """A cleared batch whose list is in another order delivers to each item its own render."""
    requests = requests_with_images("https://b.example/uc?id=")
    first = batch.run(requests)
    batch.ti.clear()
    again = batch.run(requests[::-1])
    ids = [{item["key"]: item["generation_id"] for item in result["succeeded"]} for result in (first, again)]
    assert ids[0] == ids[1]
    assert len(batch.paid) == 2
    assert "signatures" not in caplog.text
    result = batch.other_task().run(requests_with_images("https://b.example/a.png?token="))
    assert len(result["succeeded"]) == 2
    assert "1 request of the batch, apart from the signatures of links, equal to another" in caplog.text


TAKES = [{"prompt": "A boat", "key": "boat", "take": number} for number in (1, 2)]


@pytest.mark.parametrize("api", ["seedanceapi-v1"])
def test_a_new_take_pays_for_itself_only(batch: Batch) -> None:
    first = batch.run(TAKES[:1])["succeeded"][0]
    batch.ti.clear()
    again = batch.run(TAKES[::-1])["succeeded"]
    assert keys(again) == ["boat-2", "boat"]
    assert again[1]["generation_id"] == first["generation_id"] != again[0]["generation_id"]
    assert batch.paid == ["A boat"] * 2
    assert again[0]["request"] == {"prompt": "A boat", "take": 2}


@pytest.mark.parametrize("api", ["seedanceapi-v1"])
def test_the_same_take_twice_is_refused(batch: Batch) -> None:
    twice = [TAKES[1], {**TAKES[1], "key": "ship"}]
    with pytest.raises(errors.SeedanceRequestError, match="It is take 2 of a request, as item 'boat-2' is"):
        batch.run(twice)
    assert batch.paid == []
    result = batch.run(twice, on_item_failure="keep")
    assert kinds(result) == [("ship-2", "request")]
    assert batch.paid == ["A boat"]


@pytest.mark.parametrize(("api", "deferrable"), [*((api, True) for api in ALL_APIS), ("ark", False)])
def test_each_request_is_rendered_once_and_results_keep_the_order(batch: Batch, deferrable: bool) -> None:
    requests = ["a lamp", {"prompt": "a shoe", "key": "shoe", "model": None}, {"prompt": "a hat"}]
    result = batch.run(requests, max_in_flight=2, deferrable=deferrable)
    assert sorted(batch.paid) == ["a hat", "a lamp", "a shoe"]
    assert keys(result["succeeded"]) == ["0", "shoe", "2"]
    assert (result["failed"], result["not_submitted"], result["manifest"]) == ([], [], None)
    assert result["counts"] == {"total": 3, "succeeded": 3, "failed": 0, "not_submitted": 0}
    assert set(result["succeeded"][0]) == {
        *("key", "generation_id", "api", "media", "status", "model", "url", "urls", "duration", "resolution"),
        *("credits", "cost_usd", "created_at", "completed_at", "expires_at"),
        *("seed", "aspect_ratio", "fps", "last_frame_url", "usage", "request", "reused_from"),
    }
    assert {entry["status"] for entry in result["succeeded"]} == {"succeeded"}
    reported = [entry["credits"] for entry in result["succeeded"] if entry["credits"] is not None]
    assert result["credits"] == (pytest.approx(sum(reported)) if reported else None)


@pytest.mark.parametrize("emulator_options", [{"render_seconds": 0.02, "speed": 1}], ids=["real time"])
def test_no_more_than_max_in_flight_at_a_time(batch: Batch) -> None:
    flying: list[int] = []
    batch.before_resume = lambda _: flying.append(
        sum(generation.status in ("queued", "running") for generation in batch.services.generations)
    )
    result = batch.run([f"lamp {number}" for number in range(7)], max_in_flight=3)
    assert result["counts"]["succeeded"] == len(batch.paid) == 7
    assert max(flying) <= 3


def at_once(services: Any) -> int:
    """Return the maximum number of renders that ran at a time."""
    speed, changes = services.speed, list[tuple[float, int]]()
    for one in services.generations:
        # One begins when another one ends, at a time that rounding may place before the end.
        changes += [(one.ended_at - one.render_seconds / speed + 0.001, 1), (one.ended_at, -1)]
    return max(accumulate(change for _, change in sorted(changes)))


@pytest.mark.parametrize("api", ["ark"])
@pytest.mark.parametrize(
    "emulator_options",
    [{"limits": True, "speed": 100, "render_seconds": 5, "concurrency": limit} for limit in (3, 1)],
    ids=["3 at a time", "1 at a time"],
)
def test_queued_renders_are_delivered(batch: Batch, emulator_options: dict[str, Any]) -> None:
    batch.services.hold()  # until all are submitted
    batch.before_resume = lambda _: batch.services.release()
    result = batch.run([f"lamp {number}" for number in range(8)])
    assert result["counts"] == {"total": 8, "succeeded": 8, "failed": 0, "not_submitted": 0}
    assert len(set(batch.paid)) == len(batch.paid) == 8
    assert at_once(batch.services) == emulator_options["concurrency"]
    submissions = [entry for entry in batch.services.ledger.requests if entry.kind == "submit"]
    assert [entry.status for entry in submissions] == [200] * 8


def test_identical_requests_are_submitted_separately_and_an_empty_list_succeeds(batch: Batch) -> None:
    result = batch.run(["a lamp"] * 3)
    assert len({entry["generation_id"] for entry in result["succeeded"]}) == 3
    assert batch.other_task().run([])["counts"]["total"] == 0


def test_a_store_is_read_once_per_group(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "GROUP_SIZE", 3)
    batch.run([f"lamp {number}" for number in range(7)], max_in_flight=3)
    gets = [key for what, key in batch.store.reads_and_writes if what == "get"]
    assert len(gets) <= batch.entries * (1 + 7 / 3)
    assert max(len(text) for text in batch.store.texts.values()) <= 64 * 1024
    assert len(batch.store.texts) == 3


@pytest.mark.parametrize("api", ["ark"])
@pytest.mark.parametrize(("state", "cancelled"), [("failed", True), ("restarting", False)])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_batch_whose_worker_is_stopped_submits_nothing_more(
    batch: Batch, state: str, cancelled: bool, deferrable: bool
) -> None:
    """Airflow calls on_kill once, and lets the worker go on for a minute."""
    batch.services.hold()
    batch.prepare([*"abcd"], deferrable=deferrable)
    batch.ti.state = state

    def kill(_: str) -> None:
        if batch.paid and not batch.op.killed:
            batch.op.on_kill()
            if not cancelled:
                batch.services.release()

    batch.store.before = kill
    if deferrable:
        batch.defer()
    else:
        with pytest.raises(errors.SeedanceError, match="The task was stopped") as caught:
            batch.op.execute(batch.context)
        assert caught.value.retry_helps
    assert batch.paid == ["a"]
    assert len(batch.services.ledger.deletions) == cancelled
    batch.store.before = lambda _: None
    batch.services.release()
    batch.prepare([*"abcd"])
    result = batch.clear() if cancelled else batch.retry()  # a person clears what a person has ended
    assert keys(result["succeeded"]) == ["0", "1", "2", "3"]
    assert sorted(batch.paid) == ["a", *"a" * cancelled, "b", "c", "d"]


@pytest.mark.parametrize("api", ["ark"])
def test_deferral_contains_no_secret(batch: Batch) -> None:
    batch.services.hold()
    deferred = batch.defer(
        [{"prompt": "a heron", "images": "https://b.example/in.png?X-Signature=topsecret"}]
    )
    shown = repr((deferred.trigger.serialize(), deferred.kwargs, deferred.trigger))
    for secret in ("heron", SECRET, "topsecret", batch.services.url):
        assert secret not in shown


def test_a_failed_item_stops_no_other_and_a_retry_pays_only_for_it(batch: Batch) -> None:
    batch.services.fault("fail", prompt="b", message="GPU on fire")
    message = r"1 of 3 renders failed: 1 \(failed: .*GPU on fire"
    with pytest.raises(errors.SeedanceBatchError, match=message) as caught:
        batch.run(["a", "b", "c"])
    assert caught.value.retry_helps
    assert keys(batch.retry()["succeeded"]) == ["0", "1", "2"]
    assert sorted(batch.paid) == ["a", "b", "b", "c"]


def test_keep_returns_successes_and_failures(batch: Batch) -> None:
    batch.services.fault("fail", prompt="b", message="GPU on fire")
    batch.services.fault("refuse", prompt="c", status=403, message="not in your plan")
    result = batch.run(["a", "b", "c", "d"], on_item_failure="keep")
    assert keys(result["succeeded"]) == ["0", "3"]
    assert kinds(result) == [("1", "failed"), ("2", "forbidden")]
    assert "GPU on fire" in result["failed"][0]["error"]
    assert result["failed"][0]["generation_id"]
    assert result["counts"] == {"total": 4, "succeeded": 2, "failed": 2, "not_submitted": 0}


def test_moderation_and_bad_requests_are_not_retried(batch: Batch) -> None:
    batch.services.fault("refuse", prompt="b", status=400, message="that cannot be")
    batch.services.fault("fail", prompt="c", message="content policy violation: moderation")
    with pytest.raises(errors.SeedanceBatchFinalError) as caught:
        batch.run(["a", "b", "c"])
    assert not caught.value.retry_helps
    with pytest.raises(errors.SeedanceBatchFinalError, match="2 of 3"):
        batch.retry()
    assert sorted(batch.paid) == ["a", "c"]
    assert keys(batch.clear()["succeeded"]) == ["0", "1", "2"]
    assert sorted(batch.paid) == ["a", "b", "c", "c"]


def test_unsupported_requests_are_refused_before_anything_is_sent(batch: Batch) -> None:
    wrong = [{"duration": 999}, {"durration": 4}, {"prompt": ""}, {"model": ["x"]}, {"model": {"x": 1}}]
    requests = ["a", *({"prompt": "b", **one} for one in wrong)]
    found = r"5 of 6 requests.*duration=999.*request 2 has .*'duration'\?.*request 3 has an empty prompt"
    with pytest.raises(errors.SeedanceRequestError, match=found):
        batch.run(requests)
    assert batch.paid == []
    result = batch.other_task().run(requests, on_item_failure="keep")
    assert batch.paid == ["a"]
    assert kinds(result) == [(str(number), "request") for number in range(1, 6)]


def test_consecutive_forbidden_items_open_the_circuit_breaker(batch: Batch) -> None:
    batch.services.fault("refuse", on="submit", times=None, status=403, message="blocked")
    with pytest.raises(errors.SeedanceForbiddenError, match="3 failed, 5 not submitted"):
        batch.run([str(number) for number in range(8)], on_item_failure="keep")
    assert batch.paid == []


def test_an_account_that_is_refused_ends_the_batch(batch: Batch) -> None:
    batch.services.fault("refuse", prompt="b", status=402, message="no credits")
    result = batch.run(["a", "b", "c"], on_item_failure="keep")
    assert (keys(result["succeeded"]), result["not_submitted"]) == (["0"], ["1", "2"])
    batch.services.fault("refuse", prompt="e", status=401, message="no")
    with pytest.raises(errors.SeedanceAuthenticationError, match="1 succeeded"):
        batch.other_task().run(["d", "e", "f"], on_item_failure="keep")
    assert batch.paid == ["a", "d"]


def test_retry_waits_again_for_timed_out_items(batch: Batch) -> None:
    batch.services.hold()
    with pytest.raises(errors.SeedanceBatchError, match="timeout"):
        batch.run(["a", "b"], timeout=0.05)
    batch.services.release()
    batch.ti.retry()
    assert batch.run(["a", "b"])["counts"]["succeeded"] == 2
    assert sorted(batch.paid) == ["a", "b"]


@pytest.mark.parametrize("api", ["seedance2api"])
def test_rate_limit_in_the_middle_defers(batch: Batch) -> None:
    batch.services.fault("rate_limit", prompt="c", retry_after=1)
    assert batch.run(["a", "b", "c", "d"])["counts"]["succeeded"] == 4
    assert sorted(batch.paid) == ["a", "b", "c", "d"]
    assert any(deferred.trigger.submit_not_before is not None for deferred in batch.deferrals)


def test_unreachable_service_fails_the_task(batch: Batch) -> None:
    batch.services.stop()
    with pytest.raises(errors.SeedanceConnectionError):
        batch.run(["a"], timing=BatchTiming(max_unreachable=0))


def test_foreign_event_ends_nothing(batch: Batch) -> None:
    batch.services.hold()
    batch.defer(["a"])
    foreign = {"generation_id": batch.ids[0], "outcome": "ended", "result": {}}
    for event in (None, {}, "done", {"outcome": "many", "ended": [foreign], "turn": "yes"}):
        batch.defer_again(event)
    assert len(batch.paid) == 1


@pytest.mark.parametrize("api", ["seedanceapi-v1"])
def test_progress_is_logged(batch: Batch, log: Log) -> None:
    batch.run(["a", "b", "c"], max_in_flight=1)
    logged = "\n".join(log.lines)
    assert "1 of 3 done, 0 failed, 1 in flight, 1 waiting" in logged
    assert "to go" in logged
    assert log.lines[-1].startswith("Batch of 3 renders: 3 succeeded, 0 failed, 0 not submitted; cost ")


def test_each_render_has_its_own_deadline(batch: Batch) -> None:
    batch.services.hold()
    before = time.time()
    ((_, state),) = batch.defer(["a"], timeout=1800).trigger.pending
    assert before + 1800 <= state.deadline <= time.time() + 1800
    assert before - 1 <= state.submitted_at <= time.time()


NO_TRIGGER = "cannot be used with a batch" if ENDING_FROM_TRIGGERS.there else r"needs Airflow 3\.3"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"on_item_failure": "skip"}, "on_item_failure"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"end_from_trigger": True}, f"end_from_trigger {NO_TRIGGER}"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=says):
        make(["a"], **arguments)
