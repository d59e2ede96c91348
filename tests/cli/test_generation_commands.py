"""``status``, ``wait``, ``cancel`` and ``list``: generations by their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_seedance.apis.registry import SERVICES, get_api
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook

Run = Callable[..., tuple[Any, str]]


@pytest.fixture(autouse=True)
def _ark(connect: Callable[..., None]) -> None:
    connect("ark")


def submit(prompt: str = "A lamp", **arguments: Any) -> str:
    return SeedanceHook().submit(VideoRequest(prompt=prompt, **arguments)).generation_id


def test_status(run: Run, services: SeedanceEmulator) -> None:
    services.hold()
    lamp, kite = submit("A lamp"), submit("A kite")
    shown, progress = run("status", lamp, kite)
    assert [line.split(",")[0] for line in shown.splitlines()] == [f"{lamp}: queued", f"{kite}: queued"]
    assert progress == ""
    services.release()
    (row,), _ = run("status", lamp, "--output", "json")
    assert (row["generation_id"], row["status"], len(row["urls"])) == (lamp, "succeeded", 1)
    shown, _ = run("status", lamp)
    assert row["urls"][0] in shown


def test_an_unknown_generation_does_not_hide_the_known(run: Run) -> None:
    lamp = submit()
    rows, printed = run("status", "cgt-unknown", lamp, "--output", "json", code=1)
    assert [row["generation_id"] for row in rows] == [lamp]
    assert "answered 404" in printed


def test_wait(run: Run, services: SeedanceEmulator) -> None:
    lamp = submit()
    (row,), _ = run("wait", lamp, "--poll-interval", "0.01", "--output", "json", "--quiet")
    assert row["status"] == "succeeded"
    services.fault("fail", message="no luck")
    kite = submit("A kite")
    shown, _ = run("wait", lamp, kite, "--poll-interval", "0.01", code=1)
    assert "no luck" in shown


def test_wait_that_times_out_or_is_interrupted(
    run: Run, services: SeedanceEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.hold()
    lamp = submit()
    _, printed = run("wait", lamp, "--timeout", "0.1", code=1)
    assert "did not end within" in printed

    def interrupt(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(SeedanceHook, "wait_for_end", interrupt)
    _, printed = run("wait", lamp, code=130)
    assert "goes on and is billed" in printed


def test_cancel(run: Run, services: SeedanceEmulator) -> None:
    services.hold()
    lamp = submit()
    (row,), _ = run("cancel", lamp, "--output", "json")
    assert (row["generation_id"], row["cancelled"]) == (lamp, True)
    services.release()
    kite = submit("A kite")
    run("wait", kite, "--poll-interval", "0.01")
    shown, _ = run("cancel", kite, code=1)
    assert shown == f"Generation {kite} has already ended: succeeded.\n"
    shown, _ = run("cancel", "cgt-unknown", code=1)
    assert "answered 404" in shown
    assert shown.endswith("base URL and key. Nothing was cancelled; a render that exists is billed.\n")


def test_list(run: Run, connect: Callable[..., None]) -> None:
    assert run("list")[1] == "ark lists no generations of this account.\n"
    flex = {"service_tier": "flex", "model": "seedance-1-0-pro-250528"}
    ids = {submit("A lamp"), submit("A kite"), submit("A heron", **flex)}
    rows, _ = run("list", "--output", "json")
    assert {row["generation_id"] for row in rows} == ids
    assert len(run("list", "--limit", "2", "--output", "json")[0]) == 2
    connect("seedance2api")
    _, printed = run("list", code=1)
    assert "does not list generations, and no ledger is configured" in printed


@pytest.mark.parametrize("api", SERVICES)
def test_every_service_has_status_wait_and_cancel(
    run: Run, connect: Callable[..., None], services: SeedanceEmulator, api: str
) -> None:
    connect(api)
    services.hold()
    lamp = submit()
    (row,), _ = run("status", lamp, "--output", "json")
    assert row["status"] in ("queued", "running")
    (row,), _ = run("cancel", lamp, "--output", "json", code=0 if get_api(api).can_cancel else 1)
    services.release()
    (end,), _ = run("wait", lamp, "--poll-interval", "0.01", "--output", "json", code=int(row["cancelled"]))
    assert end["status"] == ("cancelled" if row["cancelled"] else "succeeded")


def test_cancel_at_a_service_that_cannot(run: Run, connect: Callable[..., None]) -> None:
    connect("seedanceapi-v1")
    lamp = submit()
    shown, printed = run("cancel", "unknown", lamp, code=1)
    assert shown == (
        f"seedanceapi-v1 offers no way to cancel: generation {lamp} goes on at seedanceapi-v1 and is billed.\n"
    )
    assert "answered 404" in printed
