"""The operator, from arguments to result, with files on a host of our own and an emulated service."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from airflow.sdk import DAG, Asset, AssetAlias, ObjectStoragePath
from airflow.sdk.execution_time.context import OutletEventAccessors
from support import SECRET
from versions import RETRY_POLICIES, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.transfers import seedance_to_object_storage as module
from airflow_provider_seedance.transfers.output import Progress, megabytes
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from transfers.conftest import connection_json
from transfers.server import MediaServer, Reply

DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()
SECOND = DATA[::-1] * 2


@pytest.fixture(autouse=True)
def conn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def make(**extra: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SEEDANCE_DEFAULT", connection_json(**extra))

    make()
    return make


class Service:
    """What the service says when it is asked about the generation again."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[tuple[str, str]] = []

    def __call__(self, hook: SeedanceHook, generation_id: str, media: Any = "video") -> Generation:
        self.asked.append((generation_id, media))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Generation.from_result(answer)


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    fake = Service()
    monkeypatch.setattr(SeedanceHook, "get_generation", lambda self, *args: fake(self, *args))
    return fake


def result(*urls: str, **changes: Any) -> dict[str, Any]:
    return {
        "generation_id": "gen-1",
        "api": "seedanceapi-v2",
        "media": "video",
        "status": "succeeded",
        "model": "seedance-2.0",
        "url": urls[0] if urls else None,
        "urls": list(urls),
        "duration": 5,
        "resolution": "720p",
        "credits": None,
        "cost_usd": None,
        "created_at": None,
        "completed_at": None,
        "expires_at": None,
        **changes,
    }


def operator(generation: Any, destination: Any, **arguments: Any) -> SeedanceToObjectStorageOperator:
    return SeedanceToObjectStorageOperator(
        task_id="store", generation=generation, destination=destination, **arguments
    )


def run(generation: Any, destination: Any, *, events: Any = None, **arguments: Any) -> dict[str, Any]:
    context: Any = {} if events is None else {"outlet_events": events}
    done = operator(generation, destination, **arguments).execute(context)
    json.dumps(done)
    return done


def names_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- what is stored and returned


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("kind", [str, ObjectStoragePath])
def test_one_file(host: MediaServer, tmp_path: Path, scheme: str, kind: Any) -> None:
    path = f"{scheme}{tmp_path}/deep/out.mp4"
    assert run(result(host.put("/v.mp4", DATA)), kind(path)) == {
        "path": path,
        "paths": [path],
        "bytes": len(DATA),
        "sha256": [SHA256],
        "generation_id": "gen-1",
    }
    assert (tmp_path / "deep" / "out.mp4").read_bytes() == DATA
    assert names_in(tmp_path) == ["deep/out.mp4"]


def test_a_directory(host: MediaServer, tmp_path: Path) -> None:
    done = run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/")
    assert done["path"] == f"{tmp_path}/gen-1.mp4"
    assert names_in(tmp_path) == ["gen-1.mp4"]


def test_an_object_path_that_is_a_directory_here(host: MediaServer, tmp_path: Path) -> None:
    assert run(result(host.put("/v.mp4", DATA)), ObjectStoragePath(f"{tmp_path}/"))["paths"] == [
        f"{tmp_path}/gen-1.mp4"
    ]


def test_several_outputs_are_numbered(host: MediaServer, tmp_path: Path) -> None:
    urls = [
        host.put(f"/{name}", DATA[:size], content_type="image/png")
        for name, size in (("b.png", 5), ("a.png", 9))
    ]
    done = run(result(*urls, media="image"), f"{tmp_path}/")
    assert done["paths"] == [f"{tmp_path}/gen-1-1.png", f"{tmp_path}/gen-1-2.png"]
    assert done["path"] == done["paths"][0]
    assert done["bytes"] == 14
    assert done["sha256"] == [hashlib.sha256(DATA[:size]).hexdigest() for size in (5, 9)]
    assert (tmp_path / "gen-1-2.png").read_bytes() == DATA[:9]


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("max_parallel", [1, 4])
def test_names_of_ones_own(host: MediaServer, tmp_path: Path, count: int, max_parallel: int) -> None:
    urls = [host.put(f"/{index}.mp4", DATA[:index]) for index in range(1, count + 1)]
    done = run(
        result(*urls, key="intro"),
        f"{tmp_path}/",
        name_template="{media}/{key}_{index:02d}.{ext}",
        max_parallel=max_parallel,
    )
    assert done["paths"] == [f"{tmp_path}/video/intro_{index:02d}.mp4" for index in range(1, count + 1)]
    assert done["bytes"] == sum(range(1, count + 1))


@pytest.mark.parametrize(
    ("path", "content_type", "name"),
    [
        ("/v", "image/webp", "gen-1.webp"),
        ("/v", "application/octet-stream", "gen-1.mp4"),
        ("/v", None, "gen-1.mp4"),
        ("/v.mov", "video/mp4", "gen-1.mov"),
    ],
)
def test_the_extension(
    host: MediaServer, tmp_path: Path, path: str, content_type: str | None, name: str
) -> None:
    run(result(host.put(path, DATA, content_type=content_type)), f"{tmp_path}/")
    assert names_in(tmp_path) == [name]


def test_images_in_the_result_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payload = base64.b64encode(DATA).decode()
    url = f"data:image/jpeg;base64,{payload}"
    done = run(result(url, url, media="image", generation_id="local-1"), f"{tmp_path}/")
    assert names_in(tmp_path) == ["local-1-1.jpg", "local-1-2.jpg"]
    assert done["sha256"] == [SHA256, SHA256]
    assert payload[:100] not in caplog.text


def test_images_in_the_result_itself_are_bounded_like_all_others(
    conn: Callable[..., None], tmp_path: Path
) -> None:
    conn(max_media_bytes=len(DATA) - 1)
    url = f"data:image/jpeg;base64,{base64.b64encode(DATA).decode()}"
    with pytest.raises(errors.SeedanceMediaTooLargeError, match="max_media_bytes") as caught:
        run(result(url, media="image", generation_id="local-1"), f"{tmp_path}/")
    assert len(str(caught.value)) < 1000
    assert names_in(tmp_path) == []


def test_memory(host: MediaServer) -> None:
    fs = fsspec.filesystem("memory")
    done = run(result(host.put("/v.mp4", DATA)), "memory://bucket/videos/")
    assert done["path"] == str(ObjectStoragePath("memory://bucket/videos/gen-1.mp4"))
    assert fs.cat("/bucket/videos/gen-1.mp4") == DATA
    fs.store.clear()


@pytest.mark.parametrize("store", ["file", "memory"])
def test_nothing_is_visible_while_it_is_downloaded(host: MediaServer, tmp_path: Path, store: str) -> None:
    fs = fsspec.filesystem("memory")
    path = f"{tmp_path}/out.mp4" if store == "file" else "memory://bucket/out.mp4"
    seen: list[bool] = []
    url = host.put("/v.mp4", DATA)

    def look() -> None:
        seen.append((tmp_path / "out.mp4").exists() or fs.exists("/bucket/out.mp4"))

    host.script("/v.mp4", Reply(during=look))
    run(result(url), path)
    assert seen == [False]
    fs.store.clear()


def test_the_key_is_not_sent_to_the_media_host(
    host: MediaServer, other_host: MediaServer, tmp_path: Path
) -> None:
    host.script("/v.mp4", Reply(status=302, headers={"Location": other_host.put("/w.mp4", DATA)}))
    run(result(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert SECRET not in repr(host.requests + other_host.requests)
    assert "authorization" not in host.requests[0].headers | other_host.requests[0].headers


# ---------------------------------------------------------------------- forms of the argument


@pytest.mark.parametrize("write", [json.dumps, str, lambda value: f"  {json.dumps(value)}\n"])
def test_a_result_as_text(host: MediaServer, tmp_path: Path, write: Any) -> None:
    assert run(write(result(host.put("/v.mp4", DATA))), f"{tmp_path}/out.mp4")["bytes"] == len(DATA)


def test_a_generation_of_the_hook(host: MediaServer, tmp_path: Path) -> None:
    generation = Generation.from_result(result(host.put("/v.mp4", DATA)))
    assert run(generation, f"{tmp_path}/out.mp4")["generation_id"] == "gen-1"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "NoneType"),
        ("None", "NoneType"),
        ("", "the text ''"),
        ("gen-1", "gen-1"),
        ("https://cdn.example/a.mp4?sig=hidden", "https://cdn.example/a.mp4"),
        (7, "int"),
        ([], "list"),
        ({}, "generation_id"),
        ({"path": "s3://bucket/a.mp4"}, "generation_id"),
        ({"succeeded": [], "failed": []}, "generation_id"),
        (result(), "no output URLs"),
        (result(""), "no output URLs"),
        (result("https://cdn.example/a.mp4", status="running"), "is running"),
        (result("https://cdn.example/a.mp4", status="failed"), "is failed"),
        ({**result(), "urls": "https://cdn.example/a.mp4"}, "list of strings"),
        ({**result("https://cdn.example/a.mp4"), "media": "audio"}, "media"),
    ],
)
def test_what_is_no_result(tmp_path: Path, value: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT")
    with pytest.raises(errors.SeedanceRequestError) as caught:
        run(value, f"{tmp_path}/out.mp4")
    assert said in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert not caught.value.retry_helps


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"destination": ""}, "destination is empty"),
        ({"destination": None}, "destination is empty"),
        ({"destination": "nosuch://bucket/a.mp4"}, "nosuch"),
        ({"destination": "{tmp}"}, "with a / at the end"),
        ({"destination": "{tmp}/a.mp4", "name_template": "{key}"}, "name_template"),
        ({"destination": "{tmp}/", "name_template": "{prompt}"}, "'prompt'"),
        ({"destination": "{tmp}/", "name_template": "../{key}"}, "below the destination"),
        ({"destination": "{tmp}/a.mp4", "overwrite": "maybe"}, "overwrite"),
        ({"destination": "{tmp}/a.mp4", "overwrite": None}, "overwrite"),
        ({"destination": "{tmp}/a.mp4", "overwrite": 1}, "overwrite"),
        ({"destination": "{tmp}/a.mp4", "count": 2}, "several need a directory"),
    ],
)
def test_arguments_that_cannot_be_used(
    host: MediaServer, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    destination = arguments["destination"] and arguments["destination"].replace("{tmp}", str(tmp_path))
    rest = {name: value for name, value in arguments.items() if name not in ("destination", "count")}
    url = host.put("/v.mp4", DATA)
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        run(result(*[url] * arguments.get("count", 1)), destination, **rest)
    assert said in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert host.requests == []


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None])
def test_max_parallel(value: Any) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="max_parallel"):
        operator(result(), "/x", max_parallel=value)


def test_a_name_template_that_rendered_to_nothing(host: MediaServer, tmp_path: Path) -> None:
    for nothing in ("", "None"):
        run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4", name_template=nothing)


# ---------------------------------------------------------------------- overwrite


@pytest.mark.parametrize("overwrite", [True, "True", "true"])
def test_overwriting(host: MediaServer, tmp_path: Path, overwrite: Any) -> None:
    (tmp_path / "out.mp4").write_bytes(b"before")
    run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4", overwrite=overwrite)
    assert (tmp_path / "out.mp4").read_bytes() == DATA


@pytest.mark.parametrize("overwrite", [False, "False"])
def test_not_overwriting(host: MediaServer, tmp_path: Path, overwrite: Any) -> None:
    (tmp_path / "out.mp4").write_bytes(b"before")
    with pytest.raises(
        errors.SeedanceDestinationExistsError, match=r"the destination exists: .*out\.mp4"
    ) as caught:
        run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4", overwrite=overwrite)
    assert not caught.value.retry_helps
    assert (tmp_path / "out.mp4").read_bytes() == b"before"
    assert host.requests == []


def test_not_overwriting_one_of_several(host: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "gen-1-2.mp4").write_bytes(b"before")
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(result(host.put("/1.mp4", DATA), host.put("/2.mp4", DATA)), f"{tmp_path}/", overwrite=False)
    assert host.requests == []
    assert names_in(tmp_path) == ["gen-1-2.mp4"]


def test_not_overwriting_what_is_named_by_the_reply(host: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "gen-1.webm").write_bytes(b"before")
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(result(host.put("/v", DATA, content_type="video/webm")), f"{tmp_path}/", overwrite=False)
    assert (tmp_path / "gen-1.webm").read_bytes() == b"before"


def test_a_file_that_comes_in_between(host: MediaServer, tmp_path: Path) -> None:
    url = host.put("/v.mp4", DATA)
    other = tmp_path / "other"
    other.write_bytes(b"faster")
    host.script("/v.mp4", Reply(during=lambda: other.rename(tmp_path / "out.mp4")))
    with pytest.raises(errors.SeedanceDestinationExistsError):
        run(result(url), f"{tmp_path}/out.mp4", overwrite=False)
    assert (tmp_path / "out.mp4").read_bytes() == b"faster"
    assert names_in(tmp_path) == ["out.mp4"]


def test_if_changed(host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    generation = result(host.put("/v.mp4", DATA))
    first = run(generation, f"{tmp_path}/out.mp4", overwrite="if-changed")
    before = (tmp_path / "out.mp4").stat()
    assert run(generation, f"{tmp_path}/out.mp4", overwrite="if-changed") == first
    assert (tmp_path / "out.mp4").stat().st_mtime_ns == before.st_mtime_ns
    assert "the length was compared, not the content" in caplog.text
    host.put("/v.mp4", SECOND)
    assert run(generation, f"{tmp_path}/out.mp4", overwrite="if-changed")["bytes"] == len(SECOND)


def test_if_changed_without_an_announced_length(host: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(DATA[::-1])
    generation = result(host.put("/v.mp4", DATA))
    host.script("/v.mp4", Reply(headers={"Content-Length": None}))
    assert run(generation, f"{tmp_path}/out.mp4", overwrite="if-changed")["sha256"] == [SHA256]


# ---------------------------------------------------------------------- new URLs


def test_a_refused_url_is_asked_for_again(host: MediaServer, tmp_path: Path, service: Service) -> None:
    host.script("/v.mp4", Reply(status=403))
    url = host.put("/v.mp4", DATA)
    service.answers = [result(url + "?sig=2")]
    run(result(url + "?sig=1", media="image"), f"{tmp_path}/out.png")
    assert service.asked == [("gen-1", "image")]
    assert (tmp_path / "out.png").read_bytes() == DATA


def test_an_expired_url_is_asked_for_before(host: MediaServer, tmp_path: Path, service: Service) -> None:
    service.answers = [result(host.put("/new.mp4", DATA))]
    run(result(host.put("/old.mp4", SECOND), expires_at="2020-01-01T00:00:00+00:00"), f"{tmp_path}/out.mp4")
    assert len(service.asked) == 1
    assert host.ranges("/old.mp4") == []


def test_one_question_serves_all_outputs(host: MediaServer, tmp_path: Path, service: Service) -> None:
    """The quota may be ten requests an hour."""
    old = [host.url(f"/old-{index}.png") for index in range(4)]
    service.answers = [result(*[host.put(f"/new-{index}.png", DATA) for index in range(4)], media="image")]
    run(result(*old, media="image"), f"{tmp_path}/")
    assert len(service.asked) == 1
    assert len(names_in(tmp_path)) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (errors.SeedanceNotFoundError("404"), "not known to the service any more"),
        (result(), "0 of 1 outputs"),
        (result(status="expired"), "is expired there"),
    ],
)
def test_an_output_that_is_gone(
    host: MediaServer, tmp_path: Path, service: Service, answer: Any, said: str
) -> None:
    service.answers = [answer]
    with pytest.raises(errors.SeedanceOutputGoneError) as caught:
        run(result(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert said in str(caught.value)
    assert "is billed" in str(caught.value)
    assert 'on_clear="new"' in str(caught.value)
    assert not caught.value.retry_helps


def test_a_service_that_stands_by_its_url(host: MediaServer, tmp_path: Path, service: Service) -> None:
    service.answers = [result(host.url("/v.mp4"))]
    with pytest.raises(errors.SeedanceOutputGoneError, match="no other URL"):
        run(result(host.url("/v.mp4")), f"{tmp_path}/out.mp4")


def test_a_direct_answer_cannot_be_asked_for_again(
    host: MediaServer, tmp_path: Path, service: Service
) -> None:
    with pytest.raises(errors.SeedanceOutputGoneError, match="keeps no record"):
        run(result(host.url("/v.png"), generation_id="local-1"), f"{tmp_path}/out.png")
    assert service.asked == []


def test_a_quota_in_between(host: MediaServer, tmp_path: Path, service: Service) -> None:
    service.answers = [errors.SeedanceRateLimitError("The quota is used up.", retry_after=900)]
    with pytest.raises(errors.SeedanceRateLimitError) as caught:
        run(result(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert caught.value.retry_after == 900


# ---------------------------------------------------------------------- errors


def test_nothing_stays_after_an_error(host: MediaServer, tmp_path: Path) -> None:
    host.put("/v.mp4", DATA)
    host.always["/v.mp4"] = Reply(cut=1000, whole=True)
    with pytest.raises(errors.SeedanceMediaError) as caught:
        run(result(host.url("/v.mp4?sig=hidden")), f"{tmp_path}/out.mp4")
    assert list(tmp_path.iterdir()) == []
    assert caught.value.generation_id == "gen-1"
    for word in ("gen-1", "paid for", "a retry downloads again and pays nothing"):
        assert word in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_private_host(host: MediaServer, tmp_path: Path, conn: Any) -> None:
    conn(media_hosts=None)
    with pytest.raises(errors.SeedanceMediaError, match="name it in media_hosts"):
        run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4")
    assert host.requests == []
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_fails(host: MediaServer, tmp_path: Path) -> None:
    host.always["/2.mp4"] = Reply(status=500)
    urls = [host.put("/1.mp4", DATA), host.url("/2.mp4"), host.put("/3.mp4", DATA)]
    with pytest.raises(errors.SeedanceMediaError) as caught:
        run(result(*urls), f"{tmp_path}/")
    assert names_in(tmp_path) == ["gen-1-1.mp4", "gen-1-3.mp4"]
    message = str(caught.value)
    assert "1 of 3 outputs" in message
    assert f"{tmp_path}/gen-1-1.mp4, {tmp_path}/gen-1-3.mp4" in message
    assert "Output 2 of 3" in message
    host.always.clear()
    host.put("/2.mp4", DATA)
    assert len(run(result(*urls), f"{tmp_path}/")["paths"]) == 3


def test_what_a_retry_can_cure_comes_first(host: MediaServer, tmp_path: Path, service: Service) -> None:
    """A retry stores what can still be stored, before that expires too."""
    host.always["/2.mp4"] = Reply(status=500)
    urls = [host.url("/1.mp4"), host.url("/2.mp4")]
    service.answers = [result(*urls)]
    with pytest.raises(errors.SeedanceMediaError, match="none is stored") as caught:
        run(result(*urls), f"{tmp_path}/")
    assert caught.value.retry_helps
    host.always.clear()
    host.put("/2.mp4", DATA)
    with pytest.raises(errors.SeedanceOutputGoneError):
        run(result(*urls), f"{tmp_path}/")
    assert names_in(tmp_path) == ["gen-1-2.mp4"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_killed_task_leaves_nothing(host: MediaServer, tmp_path: Path, count: int) -> None:
    host.put("/v.mp4", DATA)
    task = operator(result(*[host.url("/v.mp4")] * count), f"{tmp_path}/")
    host.always["/v.mp4"] = Reply(during=task.on_kill)
    with pytest.raises(errors.SeedanceMediaError, match="the task was stopped"):
        task.execute({})
    assert names_in(tmp_path) == []


def test_a_timeout_of_airflow_leaves_nothing(host: MediaServer, tmp_path: Path) -> None:
    class TimeIsUp(BaseException):
        pass

    def end(*arguments: Any) -> None:
        raise TimeIsUp

    host.put("/v.mp4", DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "line", end)
        with pytest.raises(TimeIsUp):
            run(result(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_killing_before_and_after(host: MediaServer, tmp_path: Path) -> None:
    task = operator(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4")
    task.on_kill()
    task.execute({})
    task.on_kill()


# ---------------------------------------------------------------------- the log


def test_the_log(host: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(result(host.put("/v.mp4", DATA) + "?sig=hidden"), f"{tmp_path}/out.mp4")
    assert f"Downloading the output of generation gen-1 from {host.url('/v.mp4')} to" in caplog.text
    assert "(0.3 MB)" in caplog.text
    assert "(100 %) downloaded" in caplog.text
    assert f"Stored {tmp_path}/out.mp4: {len(DATA)} bytes, sha256 {SHA256}" in caplog.text
    assert "MB/s" in caplog.text
    assert "hidden" not in caplog.text


def test_progress() -> None:
    now = [0.0]
    progress = Progress(lambda: now[0])
    assert progress.line(1, 1000) is None
    assert progress.line(250, 1000) == "250 bytes of 1000 bytes (25 %) downloaded"
    assert progress.line(260, 1000) is None
    now[0] = 10.0
    assert progress.line(270, 1000) is not None
    assert progress.line(280, 1000) is None
    assert progress.line(1000, 1000) is not None


def test_progress_of_an_unknown_length() -> None:
    now = [0.0]
    progress = Progress(lambda: now[0])
    assert progress.line(1, None) is None
    now[0] = 11.0
    assert progress.line(2_000_000, None) == "2.0 MB downloaded"


def test_lengths_for_people() -> None:
    assert [megabytes(size) for size in (None, 5, 12_345_678)] == ["unknown length", "5 bytes", "12.3 MB"]


# ---------------------------------------------------------------------- Airflow


def test_asset_events(host: MediaServer, tmp_path: Path) -> None:
    asset, other = Asset("s3://bucket/videos"), AssetAlias("videos")
    events = OutletEventAccessors()
    run(
        result(host.put("/v.mp4", DATA) + "?sig=hidden"),
        f"{tmp_path}/out.mp4",
        outlets=[asset, other],
        events=events,
    )
    assert events[asset].extra == {
        "path": f"{tmp_path}/out.mp4",
        "generation_id": "gen-1",
        "url": host.url("/v.mp4"),
    }


def test_asset_events_that_cannot_be_described(host: MediaServer, tmp_path: Path) -> None:
    run(result(host.put("/v.mp4", DATA)), f"{tmp_path}/out.mp4", outlets=[Asset("s3://bucket/v")], events={})
    assert names_in(tmp_path) == ["out.mp4"]


def test_templates(host: MediaServer, tmp_path: Path) -> None:
    with DAG("dag"):
        task = SeedanceToObjectStorageOperator(
            task_id="store",
            generation="{{ params.made }}",
            destination="{{ params.root }}/{{ ds }}/",
            name_template="{{ ds_nodash }}-{generation_id}.{ext}",
            overwrite="{{ params.overwrite }}",
            seedance_conn_id="{{ params.conn }}",
            object_storage_conn_id="{{ params.nothing }}",
        )
    params = {
        "made": result(host.put("/v.mp4", DATA)),
        "root": str(tmp_path),
        "overwrite": False,
        "conn": "seedance_default",
        "nothing": "",
    }
    context: Any = {"ds": "2026-02-07", "ds_nodash": "20260207", "params": params}
    task.render_template_fields(context)
    assert task.execute(context)["path"] == f"{tmp_path}/2026-02-07/20260207-gen-1.mp4"


def test_mapping() -> None:
    with DAG("dag") as dag:
        SeedanceToObjectStorageOperator.partial(task_id="store", destination="/data/").expand(
            generation=[result("https://cdn.example/a.mp4")]
        )
    assert dag.get_task("store").is_mapped


@needs(RETRY_POLICIES)
def test_the_retry_policy() -> None:
    assert isinstance(operator(result(), "/x").retry_policy, SeedanceRetryPolicy)

    class Other(SeedanceRetryPolicy):
        pass

    assert type(operator(result(), "/x", retry_policy=Other()).retry_policy) is Other


def test_a_parsed_dag_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = """
import sys
before = set(sys.modules)
import airflow.sdk, airflow.providers.common.compat.sdk
from airflow.sdk import BaseOperator
before = set(sys.modules)
import airflow_provider_seedance.transfers.seedance_to_object_storage
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not {"httpx", "httpcore", "fsspec", "upath"} & new, new
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(module.__file__).parents[2])


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()
