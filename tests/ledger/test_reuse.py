"""Reuse: the same request of several tasks is paid for once, also from a stored copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import set_submission_timing
from operators.generation_task import Connect
from support import Store, TaskInstance, make_context
from transfers.results import run as transfer
from transfers.server import MediaServer, Reply

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import open_store, reusable, stored_copy
from airflow_provider_seedance.ledger.account import Filter
from airflow_provider_seedance.ledger.configuration import default_timezone
from airflow_provider_seedance.ledger.spending import spend
from airflow_provider_seedance.operators.base import SeedanceOperator
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.submission import records as rec
from airflow_provider_seedance.submission.reuse import reuse_key
from airflow_provider_seedance.submission.store import ReuseSearch, SubmissionDetails
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

from .conftest import admitted_at_once
from .reusing_task import Task, let_a_worker_die, posts, waiting_pair
from .rows import configured

pytestmark = pytest.mark.usefixtures("connected")


def total() -> Any:
    (group,) = spend(configured(), Filter(), ["namespace"], default_timezone())
    return group["credits"], group["reserved_credits"]


# ---------------------------------------------------------------------- what has succeeded


def test_another_dag_gets_what_was_paid(services: SeedanceEmulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    paid = Task(1, "first").run(reuse="task")
    got = Task(2, "second").run()
    assert got["generation_id"] == paid["generation_id"]
    assert (got["credits"], got["cost_usd"]) == (0, 0)
    assert paid["reused_from"] is None
    assert got["reused_from"] == {"dag_id": "first", "run_id": "run", "task_id": "task", "map_index": 1}
    assert (
        "The same request was paid for by task 'task' of run 'run' of Dag 'first' at connection 'seedance_default': "
        f"generation {paid['generation_id']} is reused."
    ) in caplog.messages
    assert posts(services) == 1
    assert total() == (paid["credits"], 0)


def test_dag_looks_in_its_own_dag_only(services: SeedanceEmulator) -> None:
    Task(1, "first").run()
    assert Task(2, "second").run(reuse="dag")["reused_from"] is None
    assert Task(3, "second").run(reuse="dag")["reused_from"]["map_index"] == 2
    assert posts(services) == 2


@pytest.mark.parametrize("other", [{"prompt": "Another"}, {"duration": 12}, {"seedance_conn_id": "other"}])
def test_another_request_or_connection_is_not_the_same(
    services: SeedanceEmulator, connect: Connect, other: dict[str, Any]
) -> None:
    connect("seedanceapi-v1", conn_id="other")
    Task(1).run()
    assert Task(2).run(**other)["reused_from"] is None
    assert posts(services) == 2


@pytest.mark.parametrize("fate", ["fail", "expire", "cancel_remote", "forget", "uncertain"])
def test_what_cannot_be_delivered_is_paid_for_again(services: SeedanceEmulator, fate: str) -> None:
    payer = Task(1)
    if fate == "forget":
        services.forget(payer.run()["generation_id"])
    elif fate == "uncertain":
        services.fault("drop_reply")
        with pytest.raises(errors.SeedanceUncertainSubmitError):
            payer.run()
    else:
        services.hold()
        message = {"message": "no"} if fate == "fail" else {}
        getattr(services, fate)(payer.defer().trigger.generation_id, **message)
        services.release()
        with pytest.raises(errors.SeedanceError):
            payer.resume()
    assert Task(2).run()["reused_from"] is None
    assert posts(services) == 2


def test_a_take_that_a_clear_wants_is_paid_for(services: SeedanceEmulator) -> None:
    Task(1).run()
    task = Task(2)
    task.run()
    task.ti.clear()
    assert task.run()["reused_from"]
    task.ti.clear()
    assert task.run(on_clear="new")["reused_from"] is None
    assert posts(services) == 2


# ---------------------------------------------------------------------- in flight


def test_a_render_in_flight_is_waited_for(services: SeedanceEmulator) -> None:
    first, second = waiting_pair(services)
    trigger = second.deferred.trigger
    assert trigger.generation_id == first.deferred.trigger.generation_id
    assert (first.deferred.trigger.cancel_on_kill, trigger.cancel_on_kill) == (True, False)
    services.release()
    got, paid = second.resume(), first.resume()
    assert (got["generation_id"], got["credits"], paid["credits"]) == (paid["generation_id"], 0, 28)
    assert posts(services) == 1
    assert total() == (28, 0)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_kill_cancels_nothing_that_another_task_has_paid_for(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    registered = Mock()
    monkeypatch.setattr(SeedanceOperator, "cancel_when_killed", registered)
    monkeypatch.setattr(SeedanceHook, "wait_for_end", Mock(side_effect=KeyboardInterrupt))
    services.hold()
    Task(1).defer()
    registered.assert_called_once()
    if deferrable:
        Task(2).defer()
    else:
        with pytest.raises(KeyboardInterrupt):
            Task(2, deferrable=False).run()
    registered.assert_called_once()


@pytest.mark.parametrize("payer_first", [True, False])
def test_if_the_payer_fails_the_other_one_submits(services: SeedanceEmulator, payer_first: bool) -> None:
    services.fault("fail", message="no")
    payer, other = waiting_pair(services)
    services.release()
    got = None if payer_first else other.resume()
    with pytest.raises(errors.SeedanceGenerationFailedError):
        payer.resume()
    got = got or other.resume()
    assert (got["reused_from"], got["credits"]) == (None, 28)
    assert got["generation_id"] != payer.deferred.trigger.generation_id
    assert posts(services) == 2


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_retry_delivers_what_another_task_had_paid_for(services: SeedanceEmulator, cancelled: bool) -> None:
    first, second = waiting_pair(services)
    if cancelled:
        services.cancel_remote(first.deferred.trigger.generation_id)
    services.release()
    second.ti.retry()
    got = second.run()
    payer = got["reused_from"] and got["reused_from"]["map_index"]
    assert (got["credits"], payer) == ((28, None) if cancelled else (0, 1))
    assert posts(services) == 1 + cancelled


def test_a_changed_request_leaves_the_reused_render(services: SeedanceEmulator) -> None:
    _, task = waiting_pair(services)
    services.release()
    task.ti.retry()
    assert task.run(prompt="Another")["credits"]
    task.ti.clear()
    assert task.run()["reused_from"]
    assert posts(services) == 2


# ---------------------------------------------------------------------- at the same moment


def test_tasks_that_submit_at_the_same_moment_pay_once(any_ledger: Any) -> None:
    def details(intent: rec.Record) -> SubmissionDetails:
        search = ReuseSearch(scope="any", intents={"k": intent})
        return SubmissionDetails(prompt="x", reuse=search, reuse_key="k")

    assert admitted_at_once(12, details) == 1


def test_workers_that_submit_at_the_same_moment_pay_once(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_submission_timing(monkeypatch, reuse_backoff=(0.05,) * 5000)
    open_store(make_context(None)).load()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: Task(number).run(), range(4)))
    assert posts(services) == 1
    assert sorted(result["credits"] for result in results) == [0, 0, 0, 28]


# ---------------------------------------------------------------------- stored copies


def test_a_stored_copy_is_delivered_after_the_service_forgot_the_render(
    services: SeedanceEmulator, tmp_path: Path
) -> None:
    paid = Task(1).run()
    path = tmp_path / "store" / "intro.mp4"
    stored = transfer(paid, f"file://{path}")
    services.forget(paid["generation_id"])
    requests = len(services.ledger.requests)
    task = Task(2)
    got = task.run()
    assert (got["urls"], got["expires_at"], got["credits"]) == ([stored["path"]], None, 0)
    assert got["reused_from"]["map_index"] == 1
    assert (got["duration"], got["generation_id"]) == (paid["duration"], paid["generation_id"])
    assert len(services.ledger.requests) == requests
    # A retry, and a clear that keeps it, deliver it again.
    task.ti.retry()
    assert task.run() == got
    copied = transfer(got, f"file://{tmp_path / 'other' / 'copy.mp4'}")
    assert copied["sha256"] == stored["sha256"]
    assert (tmp_path / "other" / "copy.mp4").read_bytes() == path.read_bytes()
    # That one is the latest, and the first one serves where it is gone.
    assert Task(3).run()["urls"] == [copied["path"]]
    (tmp_path / "other" / "copy.mp4").unlink()
    again = Task(4).run()
    assert again["urls"] == [stored["path"]]
    # A copy onto itself leaves the file as it is.
    content = path.read_bytes()
    assert transfer(again, stored["path"])["sha256"] == stored["sha256"]
    assert path.read_bytes() == content
    assert posts(services) == 1


def test_without_a_copy_the_service_delivers_a_render(services: SeedanceEmulator, tmp_path: Path) -> None:
    paid = Task(1).run()
    transfer(paid, f"file://{tmp_path / 'a.mp4'}")
    got = Task(2).run()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(errors.SeedanceOutputGoneError, match="is no longer stored at"):
        transfer(got, f"file://{tmp_path / 'b.mp4'}")
    assert Task(3).run()["urls"] == paid["urls"]
    services.forget(paid["generation_id"])
    assert Task(4).run()["reused_from"] is None
    assert posts(services) == 2


def test_a_stored_copy_has_a_last_frame(services: SeedanceEmulator, connect: Connect, tmp_path: Path) -> None:
    connect("ark")
    stored = transfer(Task(1, return_last_frame=True).run(), f"file://{tmp_path / 'a'}/")
    got = Task(2, return_last_frame=True).run()
    assert (got["urls"], got["last_frame_url"]) == (stored["paths"], stored["paths"][1])
    assert "a video was requested" not in str(transfer(got, f"file://{tmp_path / 'b'}/")["problems"])


@pytest.mark.parametrize("stored", [True, False])
def test_after_its_url_has_expired_only_a_stored_copy_is_reused(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, stored: bool
) -> None:
    connect("ark")  # which does not renew it
    paid = Task(1).run()
    if stored:
        transfer(paid, f"file://{tmp_path / 'a.mp4'}")
    services.expire_urls()
    assert bool(Task(2).run()["reused_from"]) is stored
    assert posts(services) == (1 if stored else 2)


def test_a_path_that_the_ledger_does_not_know_is_not_read(services: SeedanceEmulator, tmp_path: Path) -> None:
    got = Task(1).run()
    transfer(got, f"file://{tmp_path / 'a.mp4'}")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    forged = {**Task(2).run(), "url": f"file://{secret}", "urls": [f"file://{secret}"]}
    assert stored_copy(Generation.from_result(forged), 0) is None
    with pytest.raises(errors.SeedanceMediaHostError):
        transfer(forged, f"file://{tmp_path / 'b.mp4'}")


# ---------------------------------------------------------------------- images and inputs


def test_an_image_that_only_a_record_has_is_reused(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")

    def image(number: int) -> Any:
        op = SeedreamGenerateImageOperator(task_id="task", prompt="A fox", reuse="any", deferrable=False)
        return op.execute(make_context(Store(), TaskInstance(map_index=number)))

    first, second = image(1), image(2)
    assert (second["urls"], second["credits"] or 0, second["cost_usd"]) == (first["urls"], 0, 0)
    assert posts(services) == 1


@pytest.mark.parametrize(
    ("path", "reply", "same"),
    [
        ("/b.png?Signature=2", None, True),
        ("/c.png", None, False),
        ("/a.png", Reply(status=404, body=b"gone"), False),
        ("/a.png", Reply(status=200, body=b"<p>", headers={"Content-Type": "text/html"}), False),
    ],
    ids=["same", "another", "not found", "a page"],
)
def test_inputs_count_by_their_content(
    services: SeedanceEmulator, connect: Connect, path: str, reply: Any, same: bool
) -> None:
    connect("seedanceapi-v1", media_hosts=["127.0.0.1"])
    with MediaServer() as host:
        for name, content in (("/a.png", b"content"), ("/b.png", b"content"), ("/c.png", b"another")):
            host.put(name, content)
        host.always.update({"/a.png": reply} if reply else {})
        Task(1, images=[host.url("/a.png")]).run()
        assert bool(Task(2, images=[host.url(path)]).run()["reused_from"]) is same
    assert posts(services) == (1 if same else 2)


def test_links_in_extra_params_are_inputs_that_are_not_known(services: SeedanceEmulator) -> None:
    for extra, known in (({"seed": 1}, True), ({"reference": ["https://media.example/a.png"]}, False)):
        request = VideoRequest(prompt="x", extra_params=extra)
        assert bool(reuse_key(request, SeedanceHook().settings, {})) is known


# ---------------------------------------------------------------------- the order of a reuse


def test_max_credits_does_not_refuse_what_is_reused(services: SeedanceEmulator) -> None:
    Task(1).run()
    assert Task(2).run(max_credits=1)["credits"] == 0
    with pytest.raises(errors.SeedanceMaxCreditsError):
        Task(3).run(max_credits=1, prompt="Another")
    assert posts(services) == 1


def test_the_shared_quota_is_not_used_by_what_is_reused(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.hold()
    Task(1).defer()
    monkeypatch.setattr(SharedQuota, "reserve", lambda self, now: 1800.0)
    assert isinstance(Task(2).defer().trigger, SeedanceGenerationTrigger)
    assert isinstance(Task(3, prompt="Another").defer().trigger, SeedanceQuotaTrigger)
    assert posts(services) == 1


def test_after_the_wait_for_another_task_the_shared_quota_counts(
    services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_a_worker_die(monkeypatch)
    task = Task(2)
    trigger = task.defer().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert trigger.seedance_conn_id is None
    # The worker of the other task was lost.
    monkeypatch.setattr(reusable, "MAX_SUBMISSION_SECONDS", 0)
    monkeypatch.setattr(SharedQuota, "reserve", lambda self, now: 1800.0)
    trigger = task.defer_again().trigger
    assert isinstance(trigger, SeedanceQuotaTrigger)
    assert trigger.seedance_conn_id
    assert task.defer_again().trigger.generation_id
    assert posts(services) == 1
