"""Reuse of stored copies, of inputs with the same content, and before limits, quotas and connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import set_submission_timing
from operators.fallback_task import CONNECTIONS, FALLBACK, PRIMARY, connect_to
from support import Store, TaskInstance, make_context
from transfers.results import run
from transfers.server import MediaServer, Reply

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import reusable, stored_copy
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator
from airflow_provider_seedance.polling.shared_quota import SharedQuota
from airflow_provider_seedance.submission.reuse import reuse_key
from airflow_provider_seedance.submission.submitter import Submission
from airflow_provider_seedance.triggers.seedance import SeedanceGenerationTrigger, SeedanceQuotaTrigger

from .reusing_task import Task, posts, waiting_pair
from .rows import recorded

Connect = Callable[..., None]

pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture
def host() -> Iterator[MediaServer]:
    with MediaServer() as server:
        yield server


# ---------------------------------------------------------------------- stored copies


def test_a_stored_copy_is_delivered_after_the_service_forgot_the_render(
    services: SeedanceEmulator, tmp_path: Path
) -> None:
    paid = Task(1).run()
    path = tmp_path / "store" / "intro.mp4"
    stored = run(paid, f"file://{path}")
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
    copied = run(got, f"file://{tmp_path / 'other' / 'copy.mp4'}")
    assert copied["sha256"] == stored["sha256"]
    assert (tmp_path / "other" / "copy.mp4").read_bytes() == path.read_bytes()
    # That one is the latest, and the first one serves where it is gone.
    assert Task(3).run()["urls"] == [copied["path"]]
    (tmp_path / "other" / "copy.mp4").unlink()
    assert Task(4).run()["urls"] == [stored["path"]]
    assert posts(services) == 1


def test_a_stored_copy_has_its_last_frame(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path
) -> None:
    connect("ark")
    stored = run(Task(1, return_last_frame=True).run(), f"file://{tmp_path / 'a'}/")
    got = Task(2, return_last_frame=True).run()
    assert (got["urls"], got["last_frame_url"]) == (stored["paths"], stored["paths"][1])
    assert "a video was requested" not in str(run(got, f"file://{tmp_path / 'b'}/")["problems"])


def test_a_copy_onto_itself_leaves_the_file_as_it_is(services: SeedanceEmulator, tmp_path: Path) -> None:
    stored = run(Task(1).run(), f"file://{tmp_path / 'a.mp4'}")
    before = (tmp_path / "a.mp4").read_bytes()
    assert run(Task(2).run(), stored["path"])["sha256"] == stored["sha256"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_without_its_copy_a_render_is_read_from_the_service(
    services: SeedanceEmulator, tmp_path: Path
) -> None:
    paid = Task(1).run()
    run(paid, f"file://{tmp_path / 'a.mp4'}")
    (tmp_path / "a.mp4").unlink()
    assert Task(2).run()["urls"] == paid["urls"]
    services.forget(paid["generation_id"])
    assert Task(3).run()["reused_from"] is None
    assert posts(services) == 2


@pytest.mark.parametrize("stored", [True, False])
def test_after_its_url_has_expired_only_a_stored_copy_is_reused(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, stored: bool
) -> None:
    connect("ark")  # which does not renew it
    paid = Task(1).run()
    if stored:
        run(paid, f"file://{tmp_path / 'a.mp4'}")
    services.expire_urls()
    assert bool(Task(2).run()["reused_from"]) is stored
    assert posts(services) == (1 if stored else 2)


def test_a_copy_that_is_gone_by_the_transfer_is_final(services: SeedanceEmulator, tmp_path: Path) -> None:
    run(Task(1).run(), f"file://{tmp_path / 'a.mp4'}")
    got = Task(2).run()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(errors.SeedanceOutputGoneError, match="is no longer stored at"):
        run(got, f"file://{tmp_path / 'b.mp4'}")


def test_a_path_that_the_ledger_does_not_know_is_not_read(services: SeedanceEmulator, tmp_path: Path) -> None:
    got = Task(1).run()
    run(got, f"file://{tmp_path / 'a.mp4'}")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    forged = {**Task(2).run(), "url": f"file://{secret}", "urls": [f"file://{secret}"]}
    assert stored_copy(Generation.from_result(forged), 0) is None
    with pytest.raises(errors.SeedanceMediaHostError):
        run(forged, f"file://{tmp_path / 'b.mp4'}")


# ---------------------------------------------------------------------- images and inputs


def test_an_image_that_only_a_record_has_is_reused(services: SeedanceEmulator, connect: Connect) -> None:
    connect("ark")

    def image(number: int) -> Any:
        op = SeedreamGenerateImageOperator(task_id="task", prompt="A fox", reuse="any", deferrable=False)
        return op.execute(make_context(Store(), TaskInstance(map_index=number)))

    first, second = image(1), image(2)
    assert (second["urls"], second["credits"] or 0, second["cost_usd"]) == (first["urls"], 0, 0)
    assert posts(services) == 1


GONE = Reply(status=404, body=b"gone")
PAGE = Reply(status=200, body=b"<p>", headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("path", "reply", "same"),
    [
        ("/b.png?Signature=2", None, True),
        ("/c.png", None, False),
        ("/a.png", GONE, False),
        ("/a.png", PAGE, False),
    ],
    ids=["same", "another", "not found", "a page"],
)
def test_inputs_count_by_their_content(
    services: SeedanceEmulator, connect: Connect, host: MediaServer, path: str, reply: Any, same: bool
) -> None:
    connect("seedanceapi-v1", media_hosts=["127.0.0.1"])
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


def test_a_changed_request_leaves_the_reused_render(services: SeedanceEmulator) -> None:
    _, task = waiting_pair(services)
    services.release()
    task.ti.retry()
    assert task.run(prompt="Another")["credits"]
    assert posts(services) == 2


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
    set_submission_timing(monkeypatch, reuse_backoff=())
    with monkeypatch.context() as lost:
        lost.setattr(Submission, "_send", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Task(1).run()
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


# ---------------------------------------------------------------------- several connections


@pytest.fixture
def fallback(
    services: SeedanceEmulator,
    start_emulator: Callable[..., SeedanceEmulator],
    monkeypatch: pytest.MonkeyPatch,
) -> SeedanceEmulator:
    fallback = start_emulator()
    connect_both = connect_to(monkeypatch)
    connect_both(PRIMARY, services, "seedanceapi-v1")
    connect_both(FALLBACK, fallback, "seedanceapi-v1")
    return fallback


def conn_ids() -> dict[int, str]:
    return {row["map_index"]: row["conn_id"] for row in recorded()}


@pytest.mark.parametrize("conn_id", CONNECTIONS)
def test_a_render_of_any_connection_is_reused_before_the_first_is_tried(
    services: SeedanceEmulator, fallback: SeedanceEmulator, conn_id: str
) -> None:
    paid = Task(1, seedance_conn_id=conn_id).run()
    task = Task(2, seedance_conn_id=CONNECTIONS)
    got = task.run()
    assert (got["generation_id"], got["credits"]) == (paid["generation_id"], 0)
    assert conn_ids() == {1: conn_id, 2: conn_id}
    assert posts(services) + posts(fallback) == 1
    task.ti.retry()
    assert task.run() == got


def test_a_render_in_flight_is_waited_for_at_the_connection_that_was_paid(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    fallback.hold()
    first, second = Task(1, seedance_conn_id=FALLBACK), Task(2, seedance_conn_id=CONNECTIONS)
    first.defer()
    trigger: Any = second.defer().trigger
    assert (trigger.seedance_conn_id, trigger.cancel_on_kill) == (FALLBACK, False)
    fallback.release()
    assert second.resume()["reused_from"]["map_index"] == 1
    assert (posts(services), posts(fallback)) == (0, 1)


def test_a_render_that_is_gone_at_one_connection_is_submitted_to_the_first(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    paid = Task(1, seedance_conn_id=FALLBACK).run()
    fallback.forget(paid["generation_id"])
    assert Task(2, seedance_conn_id=CONNECTIONS).run()["reused_from"] is None
    assert (posts(services), posts(fallback)) == (1, 1)
    assert conn_ids()[2] == PRIMARY


def test_what_the_next_connection_renders_is_reused(
    services: SeedanceEmulator, fallback: SeedanceEmulator
) -> None:
    services.fault("refuse", status=402)
    paid = Task(1, seedance_conn_id=CONNECTIONS).run()
    got = Task(2, seedance_conn_id=list(reversed(CONNECTIONS))).run()
    assert (got["generation_id"], got["credits"]) == (paid["generation_id"], 0)
    assert conn_ids() == {1: FALLBACK, 2: FALLBACK}
    assert posts(fallback) == 1
