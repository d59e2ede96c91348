"""Outputs of one generation: URLs that are renewed, and failures."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from support import task_timeout

from airflow_provider_seedance import exceptions as errors
from transfers.conftest import Service
from transfers.results import names_in, operator, run, single
from transfers.server import MediaServer, Reply

DATA = bytes(range(256)) * 1200

pytestmark = pytest.mark.usefixtures("conn", "service")


def test_overwrite_false_with_a_file_created_meanwhile(host: MediaServer, tmp_path: Path) -> None:
    url = host.put("/v.mp4", DATA)
    other = tmp_path / "other"
    other.write_bytes(b"faster")
    host.script("/v.mp4", Reply(during=lambda: other.rename(tmp_path / "out.mp4")))
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(single(url), f"{tmp_path}/out.mp4", overwrite=False)
    assert (tmp_path / "out.mp4").read_bytes() == b"faster"
    assert names_in(tmp_path) == ["out.mp4"]


# ---------------------------------------------------------------------- new URLs


def test_one_request_renews_the_urls_of_all_outputs(
    host: MediaServer, tmp_path: Path, service: Service
) -> None:
    """The quota may be ten requests an hour."""
    service.answers = [single(*[host.put(f"/new-{index}.png", DATA) for index in range(4)], media="image")]
    urls = [host.url(f"/old-{index}.png") for index in range(4)]
    for expires_at in (None, "2020-01-01T00:00:00+00:00"):
        run(single(*urls, media="image", expires_at=expires_at), f"{tmp_path}/")
    assert service.requests == [("gen-1", "image")] * 2
    assert len([seen for seen in host.requests if "/old" in seen.path]) == 4  # none after they expired
    assert len(names_in(tmp_path)) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (errors.SeedanceNotFoundError("404"), "not known to the service any more"),
        (single(), "0 of 1 outputs"),
        (single(status="expired"), "is expired there"),
        (None, "no other URL"),
        ("local", "keeps no record"),  # its id has the prefix of a synchronous reply
    ],
)
def test_output_is_gone(host: MediaServer, tmp_path: Path, service: Service, answer: Any, said: str) -> None:
    service.answers = [answer or single(host.url("/v.mp4"))]
    generation_id = "local-1" if answer == "local" else "gen-1"
    with pytest.raises(errors.SeedanceOutputGoneError, match=said) as caught:
        run(single(host.url("/v.mp4"), generation_id=generation_id), f"{tmp_path}/out.mp4")
    assert "is billed" in str(caught.value)
    assert 'on_clear="new"' in str(caught.value)
    assert not caught.value.retry_helps


# ---------------------------------------------------------------------- errors


def test_failed_download_leaves_nothing(host: MediaServer, tmp_path: Path) -> None:
    host.put("/v.mp4", DATA)
    host.always["/v.mp4"] = Reply(cut=1000, whole=True)
    with pytest.raises(errors.SeedanceMediaError, match=r"gen-1.*paid for") as caught:
        run(single(host.url("/v.mp4?sig=hidden")), f"{tmp_path}/out.mp4")
    assert list(tmp_path.iterdir()) == []
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
def test_killed_task_leaves_nothing(host: MediaServer, tmp_path: Path, count: int) -> None:
    host.put("/v.mp4", DATA)
    task = operator(single(*[host.url("/v.mp4")] * count), f"{tmp_path}/")
    host.always["/v.mp4"] = Reply(during=task.on_kill)
    with pytest.raises(errors.SeedanceMediaError, match="he task was stopped"):
        task.execute({})
    assert names_in(tmp_path) == []
    # Kills before and after a run stop nothing.
    host.always.clear()
    task.on_kill()
    task.execute({})
    task.on_kill()


def test_airflow_timeout_leaves_no_part_of_a_file(host: MediaServer, tmp_path: Path) -> None:
    def interrupt() -> None:
        host.always.clear()  # Airflow's alarm rings once
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        time.sleep(0.2)

    host.put("/v.mp4", DATA)
    host.always["/v.mp4"] = Reply(during=interrupt)
    with pytest.raises(AirflowTaskTimeout), task_timeout(600):
        run(single(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert all(path.read_bytes() == DATA for path in tmp_path.iterdir())


def test_airflow_timeout_while_a_thread_is_started(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def start_too_late(thread: threading.Thread) -> None:
        start(thread)
        if "seedance-transfer" in thread.name:
            threads.append(thread)  # which its pool does not know yet
            raise AirflowTaskTimeout("the time is over")

    monkeypatch.setattr(threading.Thread, "start", start_too_late)
    with pytest.raises(AirflowTaskTimeout):
        run(single(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4", overwrite=True)
    threads[0].join()
    assert (names_in(tmp_path), host.requests) == ([], [])
