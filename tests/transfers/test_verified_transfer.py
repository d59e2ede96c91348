"""The operator with files that are not what was requested, and with sidecars."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from airflow.sdk import ObjectStoragePath
from ledger.rows import add, row
from support import SECRET

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.ledger.configuration import LedgerConfig
from airflow_provider_seedance.ledger.database import Database
from transfers.results import Transfer, names_in, run, run_into, sample, single
from transfers.server import MediaServer

pytestmark = pytest.mark.usefixtures("conn", "service")

X264 = sample("x264-aac.mp4")  # 64 by 48, one second
LENGTH = "it is 1.00 s long, and 5 s were requested"
REJECTED = errors.SeedanceMediaRejectedError
SIZE = "it has 64x48 pixels, and 720p was requested"


def good(host: MediaServer, **changes: Any) -> dict[str, Any]:
    return single(host.put("/v.mp4", X264), duration=1, resolution="48p", **changes)


def bad(host: MediaServer, **changes: Any) -> dict[str, Any]:
    return single(host.put("/w.mp4", X264), **changes)


@pytest.mark.parametrize(("make", "verify"), [(good, "warn"), (bad, None), (bad, "None"), (bad, "")])
def test_good_file_and_no_look(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, verify: Any
) -> None:
    assert run_into(tmp_path, make(host), verify=verify)["problems"] == []
    assert "requested" not in caplog.text


def test_problems_are_logged_and_in_the_result(
    host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = run_into(tmp_path, bad(host))
    path = f"{tmp_path}/gen-1.mp4"
    assert done["problems"] == [f"{path}: {LENGTH}", f"{path}: {SIZE}"]
    assert f"{path} is not what was requested: {LENGTH}." in caplog.text
    assert names_in(tmp_path) == ["gen-1.mp4"]


@pytest.mark.parametrize("overwrite", [True, False, "if-changed"])
def test_fail_keeps_the_file_and_fails_again(transfer: Transfer, tmp_path: Path, overwrite: Any) -> None:
    for _ in range(2):
        error = transfer.fail(REJECTED, bad(transfer.host), LENGTH, verify="fail", overwrite=overwrite)
        assert not error.retry_helps
        assert error.details()["generation_id"] == "gen-1"
        assert (tmp_path / "gen-1.mp4").read_bytes() == X264
        transfer.ti.retry()


def test_fail_stores_the_whole_batch_first(transfer: Transfer, tmp_path: Path) -> None:
    made = bad(transfer.host, generation_id="gen-a", key="a")
    items = [made, good(transfer.host, generation_id="gen-b", key="b")]
    error = transfer.fail(REJECTED, items, r"a\.mp4: it is 1\.00 s long", verify="fail")
    assert "b.mp4" not in str(error)
    assert names_in(tmp_path) == ["a.mp4", "b.mp4"]


def test_missing_outputs(transfer: Transfer) -> None:
    urls = [transfer.host.put(f"/{number}.png", sample("ffmpeg.png")) for number in range(2)]
    made = single(*urls, media="image", resolution=None, request={"num_images": 3})
    problem = "generation gen-1: it has 2 of 3 images"
    assert transfer.run(made)["problems"] == [problem]
    transfer.fail(REJECTED, made, problem, verify="fail")


@pytest.mark.parametrize("api", ["ark", "replicate"])
def test_a_group_may_be_smaller_than_its_maximum(host: MediaServer, tmp_path: Path, api: str) -> None:
    url = host.put("/1.png", sample("ffmpeg.png"))
    made = single(url, media="image", resolution=None, request={"num_images": 3}, api=api)
    assert run_into(tmp_path, made, verify="fail")["problems"] == []
    made["error_message"] = "image 2 of 2 failed: sensitive"
    problem = "generation gen-1: it has 1 of 3 images (image 2 of 2 failed: sensitive)"
    assert run_into(tmp_path, made)["problems"] == [problem]


def test_upload_is_looked_into_before_it_is_visible(host: MediaServer) -> None:
    fs = fsspec.filesystem("memory")
    done = run(bad(host), "memory://bucket/videos/", sidecar=True)
    assert done["path"] == str(ObjectStoragePath("memory://bucket/videos/gen-1.mp4"))
    assert fs.cat("/bucket/videos/gen-1.mp4") == X264
    assert [problem.partition(": ")[2] for problem in done["problems"]] == [LENGTH, SIZE]
    assert sorted(fs.find("/bucket")) == ["/bucket/videos/gen-1.mp4", "/bucket/videos/gen-1.mp4.json"]
    fs.store.clear()


# ---------------------------------------------------------------------- sidecars


def sidecar_of(path: Path) -> Any:
    return json.loads(path.read_text())


def test_sidecar(host: MediaServer, tmp_path: Path) -> None:
    url = host.put("/v.mp4", X264)
    known = {"credits": 28, "cost_usd": 0.14, "created_at": "2026-02-07T10:30:00+00:00"}
    made = single(f"{url}?Signature=s3cret", duration=1, **known)
    run_into(tmp_path, made, sidecar=True)
    assert names_in(tmp_path) == ["gen-1.mp4", "gen-1.mp4.json"]
    text = (tmp_path / "gen-1.mp4.json").read_text()
    for secret in ("s3cret", SECRET, "http://127"):
        assert secret not in text
    content = json.loads(text)
    digest = hashlib.sha256(X264).hexdigest()
    assert content["file"] == {"name": "gen-1.mp4", "bytes": len(X264), "sha256": digest}
    assert (content["request"]["duration"], content["request"]["prompt"]) == (1, None)
    named = {"service": "seedanceapi-v2", "model": "seedance-2.0", "generation_id": "gen-1"}
    assert (named | known).items() <= content.items()
    header = {"format": "mp4", "width": 64, "height": 48, "duration": 1.0}
    assert content["findings"] == {
        "verified": True,
        "header": {**header, "has_video": True, "has_audio": True},
        "problems": [SIZE],
    }


def test_sidecars_of_several_outputs(host: MediaServer, tmp_path: Path) -> None:
    urls = [host.put(f"/{number}.png", sample("ffmpeg.png")) for number in range(2)]
    run_into(tmp_path, single(*urls, media="image", resolution=None), sidecar="true", verify=None)
    content = sidecar_of(tmp_path / "gen-1-2.png.json")
    assert content["output"] == {"index": 2, "of": 2}
    assert content["findings"] == {"verified": False, "header": None, "problems": []}


def test_sidecar_that_exists(transfer: Transfer, tmp_path: Path) -> None:
    (tmp_path / "gen-1.mp4.json").write_text("{}")
    options = {"sidecar": True, "overwrite": False}
    exists, message = errors.SeedanceDestinationExistsError, r"gen-1\.mp4\.json"
    transfer.fail(exists, good(transfer.host), message, **options)
    assert (tmp_path / "gen-1.mp4.json").read_text() == "{}"
    transfer.ti.retry()
    transfer.run(good(transfer.host), **options)
    assert sidecar_of(tmp_path / "gen-1.mp4.json")["generation_id"] == "gen-1"


def test_sidecar_of_a_file_that_was_stored_before(host: MediaServer, tmp_path: Path) -> None:
    run_into(tmp_path, good(host))
    done = run_into(tmp_path, good(host), sidecar=True, overwrite="if-changed")
    assert sidecar_of(tmp_path / "gen-1.mp4.json")["file"]["sha256"] == done["sha256"][0]


def test_sidecar_has_the_prompt_from_the_ledger(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", location)
    known = {"generation_id": "gen-1", "api": "seedanceapi-v2", "prompt": "A lamp"}
    add(Database(LedgerConfig(location=location)), [row(**known)])
    run_into(tmp_path / "out", good(host), sidecar=True)
    assert sidecar_of(tmp_path / "out" / "gen-1.mp4.json")["request"]["prompt"] == "A lamp"
    monkeypatch.setenv("AIRFLOW__SEEDANCE__LEDGER", "sqlite:////nowhere/ledger.db")
    run_into(tmp_path / "out", good(host), sidecar=True)
    assert sidecar_of(tmp_path / "out" / "gen-1.mp4.json")["request"]["prompt"] is None
