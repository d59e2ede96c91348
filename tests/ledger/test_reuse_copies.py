"""Reuse of stored copies, of inputs with the same content, and of images that only a record has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from operators.generation_task import make
from support import Store, TaskInstance, make_context
from transfers.results import run
from transfers.server import MediaServer, Reply

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import Generation, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import stored_copy
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator
from airflow_provider_seedance.submission.reuse import reuse_key

from .reusing_task import Task, posts

Connect = Callable[..., None]


@pytest.fixture
def services(services: SeedanceEmulator, connect: Connect, ledger: Path) -> SeedanceEmulator:
    connect("seedanceapi-v1")
    return services


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


def test_inputs_count_by_their_content(
    services: SeedanceEmulator, connect: Connect, host: MediaServer
) -> None:
    connect("seedanceapi-v1", media_hosts=["127.0.0.1"])
    first, same = host.put("/a.png", b"content"), host.put("/b.png", b"content")
    other = host.put("/c.png", b"another")
    Task(1, images=[first]).run()
    assert Task(2, images=[f"{same}?Signature=2"]).run()["reused_from"]
    assert Task(3, images=[other]).run()["reused_from"] is None
    assert posts(services) == 2


@pytest.mark.parametrize(
    "reply",
    [Reply(status=404, body=b"gone"), Reply(status=200, body=b"<p>", headers={"Content-Type": "text/html"})],
)
def test_inputs_that_cannot_be_read_are_never_the_same(
    services: SeedanceEmulator, connect: Connect, host: MediaServer, reply: Reply
) -> None:
    connect("seedanceapi-v1", media_hosts=["127.0.0.1"])
    url = host.put("/a.png", b"content")
    host.always["/a.png"] = reply
    Task(1, images=[url]).run()
    assert Task(2, images=[url]).run()["reused_from"] is None
    assert posts(services) == 2


def test_links_in_extra_params_are_inputs_that_are_not_known(services: SeedanceEmulator) -> None:
    settings = SeedanceHook().settings
    request = VideoRequest(prompt="x", extra_params={"seed": 1})
    assert reuse_key(request, settings, {})
    linked = VideoRequest(prompt="x", extra_params={"reference": ["https://media.example/a.png"]})
    assert reuse_key(linked, settings, {}) is None


def test_a_changed_request_leaves_the_reused_render(services: SeedanceEmulator) -> None:
    services.hold()
    Task(1).defer()
    task = Task(2)
    task.defer()
    services.release()
    task.ti.retry()
    assert make(reuse="any", prompt="Another", deferrable=False, poll_interval=0.01).execute(task.context)[
        "credits"
    ]
    assert posts(services) == 2
