"""The operator, from arguments to result, with files on a local media host."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias, ObjectStoragePath
from airflow.sdk.execution_time.context import OutletEventAccessors
from support import SECRET
from versions import RETRY_POLICIES, needs

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.generations import Generation
from airflow_provider_seedance.policies.retry import SeedanceRetryPolicy
from airflow_provider_seedance.transfers import output as transfer_output
from airflow_provider_seedance.transfers.output import megabytes
from airflow_provider_seedance.transfers.seedance_to_object_storage import SeedanceToObjectStorageOperator
from transfers.results import batch, names_in, operator, run, single
from transfers.server import MediaServer, Reply

DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()

pytestmark = pytest.mark.usefixtures("conn", "service")


# ---------------------------------------------------------------------- what is stored and returned


@pytest.mark.parametrize(("scheme", "no_template"), [("", ""), ("file://", "None")])
@pytest.mark.parametrize("kind", [str, ObjectStoragePath])
def test_single_file(host: MediaServer, tmp_path: Path, scheme: str, no_template: str, kind: Any) -> None:
    path = f"{scheme}{tmp_path}/deep/out.mp4"
    made = single(host.put("/v.mp4", DATA))
    assert run(made, kind(path), verify=None, name_template=no_template) == {
        "path": path,
        "paths": [path],
        "bytes": len(DATA),
        "sha256": [SHA256],
        "generation_id": "gen-1",
        "problems": [],
    }
    assert (tmp_path / "deep" / "out.mp4").read_bytes() == DATA
    assert names_in(tmp_path) == ["deep/out.mp4"]


def test_several_outputs_are_numbered(host: MediaServer, tmp_path: Path) -> None:
    outputs = {"/b.png": DATA[:5], "/a.png": DATA[:9]}
    urls = [host.put(path, data, content_type="image/png") for path, data in outputs.items()]
    done = run(single(*urls, media="image"), f"{tmp_path}/")
    assert done["paths"] == [f"{tmp_path}/gen-1-1.png", f"{tmp_path}/gen-1-2.png"]
    assert done["path"] == done["paths"][0]
    assert done["bytes"] == 14
    assert done["sha256"] == [hashlib.sha256(DATA[:size]).hexdigest() for size in (5, 9)]
    assert (tmp_path / "gen-1-2.png").read_bytes() == DATA[:9]


@pytest.mark.parametrize(("count", "max_parallel"), [(1, 4), (3, 1), (9, 4)])
def test_name_template(host: MediaServer, tmp_path: Path, count: int, max_parallel: int) -> None:
    urls = [host.put(f"/{index}.mp4", DATA[:index]) for index in range(1, count + 1)]
    options = {"name_template": "{media}/{key}_{index:02d}.{ext}", "max_parallel": max_parallel}
    done = run(single(*urls, key="intro"), f"{tmp_path}/", **options)
    assert done["paths"] == [f"{tmp_path}/video/intro_{index:02d}.mp4" for index in range(1, count + 1)]
    assert done["bytes"] == sum(range(1, count + 1))


@pytest.mark.parametrize(
    ("kind", "path", "content_type", "name"),
    [
        (str, "/v", "image/webp", "gen-1.webp"),
        (ObjectStoragePath, "/v", "application/octet-stream", "gen-1.mp4"),
        (str, "/v", None, "gen-1.mp4"),
        (str, "/v.mov", "video/mp4", "gen-1.mov"),
    ],
)
def test_name_in_a_directory(
    host: MediaServer, tmp_path: Path, kind: Any, path: str, content_type: str | None, name: str
) -> None:
    done = run(single(host.put(path, DATA, content_type=content_type)), kind(f"{tmp_path}/"))
    assert done["path"] == f"{tmp_path}/{name}"
    assert names_in(tmp_path) == [name]


def test_data_urls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    payload = base64.b64encode(DATA).decode()
    url = f"data:image/jpeg;base64,{payload}"
    done = run(single(url, url, media="image", generation_id="local-1"), f"{tmp_path}/")
    assert names_in(tmp_path) == ["local-1-1.jpg", "local-1-2.jpg"]
    assert done["sha256"] == [SHA256, SHA256]
    assert payload[:100] not in caplog.text


def test_key_is_not_sent_to_the_media_host(
    host: MediaServer, other_host: MediaServer, tmp_path: Path
) -> None:
    host.script("/v.mp4", Reply(status=302, headers={"Location": other_host.put("/w.mp4", DATA)}))
    run(single(host.url("/v.mp4")), f"{tmp_path}/out.mp4")
    assert SECRET not in repr(host.requests + other_host.requests)
    assert "authorization" not in host.requests[0].headers | other_host.requests[0].headers


# ---------------------------------------------------------------------- forms of the argument


@pytest.mark.parametrize(
    "write", [json.dumps, str, lambda value: f"  {json.dumps(value)}\n", Generation.from_result]
)
def test_forms_of_a_result(host: MediaServer, tmp_path: Path, write: Any) -> None:
    assert run(write(single(host.put("/v.mp4", DATA))), f"{tmp_path}/out.mp4")["bytes"] == len(DATA)


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
        (single(), "no output URLs"),
        (single(""), "no output URLs"),
        (single("https://cdn.example/a.mp4", status="running"), "is running"),
        (single("https://cdn.example/a.mp4", status="failed"), "is failed"),
        ({**single(), "urls": "https://cdn.example/a.mp4"}, "list of strings"),
        ({**single("https://cdn.example/a.mp4"), "media": "audio"}, "media"),
        (["gen-1"], "gen-1"),
        ([{"path": "s3://bucket/a.mp4"}], "generation_id"),
        ([7], "int"),
        ("['gen-1']", "gen-1"),
        ("'gen-1'", "str"),
        (b"gen-1", "bytes"),
    ],
)
def test_values_without_a_result(
    tmp_path: Path, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEEDANCE_DEFAULT")
    with pytest.raises(errors.SeedanceRequestError) as caught:
        run(value, f"{tmp_path}/")
    assert said in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert not caught.value.retry_helps


@pytest.mark.parametrize(
    ("destination", "arguments", "said"),
    [
        ("", {}, "destination is empty"),
        (None, {}, "destination is empty"),
        ("nosuch://bucket/a.mp4", {}, "nosuch"),
        ("{tmp}", {}, "with a / at the end"),
        ("{tmp}/a.mp4", {"name_template": "{key}"}, "name_template"),
        ("{tmp}/", {"name_template": "{prompt}"}, "'prompt'"),
        ("{tmp}/", {"name_template": "../{key}"}, "below the destination"),
        ("{tmp}/a.mp4", {"overwrite": "maybe"}, "overwrite"),
        ("{tmp}/a.mp4", {"overwrite": None}, "overwrite"),
        ("{tmp}/a.mp4", {"overwrite": 1}, "overwrite"),
        ("{tmp}/a.mp4", {"verify": "maybe"}, "verify is 'maybe'"),
        ("{tmp}/a.mp4", {"sidecar": "maybe"}, "sidecar is 'maybe'"),
        ("{tmp}/a.mp4", {"outputs": 2}, "several outputs need a directory"),
        ("{tmp}/a.mp4", {"outputs": "a batch"}, "a batch and several outputs need a directory"),
    ],
)
def test_unusable_arguments(
    host: MediaServer, tmp_path: Path, destination: Any, arguments: dict[str, Any], said: str
) -> None:
    outputs, rest = arguments.get("outputs", 1), {k: v for k, v in arguments.items() if k != "outputs"}
    url = host.put("/v.mp4", DATA)
    generation = batch([single(url)]) if outputs == "a batch" else single(*[url] * outputs)
    with pytest.raises(errors.SeedanceConfigurationError) as caught:
        run(generation, destination and destination.replace("{tmp}", str(tmp_path)), **rest)
    assert said in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert host.requests == []


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None])
def test_max_parallel(value: Any) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="max_parallel"):
        operator(single(), "/x", max_parallel=value)


# ---------------------------------------------------------------------- the log


@pytest.mark.parametrize("large", [False, True])
def test_the_log_of_a_file(
    host: MediaServer, tmp_path: Path, info: Any, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(transfer_output, "MIN_LOGGED_BYTES", len(DATA) + 1 - large)
    run(single(host.put("/v.mp4", DATA) + "?sig=hidden"), f"{tmp_path}/out.mp4", verify=None)
    origin = f"the output of generation gen-1 from {host.url('/v.mp4')}"
    stored = f"Stored {origin} at {tmp_path}/out.mp4: {len(DATA)} bytes, sha256 {SHA256}."
    messages = [record.getMessage() for record in info.records if "transfers" in record.name]
    assert messages == [f"Downloading {origin} (0.3 MB)."] * large + [stored]


def test_megabytes() -> None:
    assert [megabytes(size) for size in (None, 5, 12_345_678)] == ["unknown length", "5 bytes", "12.3 MB"]


# ---------------------------------------------------------------------- Airflow


def test_asset_event(host: MediaServer, tmp_path: Path) -> None:
    asset, other = Asset("s3://bucket/videos"), AssetAlias("videos")
    events = OutletEventAccessors()
    generation = single(host.put("/v.mp4", DATA) + "?sig=hidden")
    run(generation, f"{tmp_path}/out.mp4", {"outlet_events": events}, outlets=[asset, other])
    extra = {"path": f"{tmp_path}/out.mp4", "generation_id": "gen-1", "url": host.url("/v.mp4")}
    assert events[asset].extra == extra
    # An event that cannot be described fails nothing.
    run(generation, f"{tmp_path}/out.mp4", {"outlet_events": {}}, outlets=[asset])


def test_templates(host: MediaServer, tmp_path: Path) -> None:
    with DAG("dag") as dag:
        SeedanceToObjectStorageOperator.partial(task_id="mapped", destination="/data/").expand(
            generation=[{}]
        )
        task = SeedanceToObjectStorageOperator(
            task_id="store",
            generation="{{ params.made }}",
            destination="{{ params.root }}/{{ ds }}/",
            name_template="{{ ds_nodash }}-{generation_id}.{ext}",
            overwrite="{{ params.overwrite }}",
            seedance_conn_id="{{ params.conn }}",
            object_storage_conn_id="{{ params.nothing }}",
            verify="{{ params.nothing }}",
            sidecar="{{ params.overwrite }}",
        )
    assert dag.get_task("mapped").is_mapped
    params: dict[str, Any] = {"made": single(host.put("/v.mp4", DATA)), "root": str(tmp_path)}
    params |= {"overwrite": False, "conn": "seedance_default", "nothing": ""}
    context: Any = {"ds": "2026-02-07", "ds_nodash": "20260207", "params": params}
    task.render_template_fields(context)
    assert task.execute(context)["path"] == f"{tmp_path}/2026-02-07/20260207-gen-1.mp4"


@needs(RETRY_POLICIES)
def test_retry_policy() -> None:
    class Other(SeedanceRetryPolicy):
        pass

    assert type(operator(single(), "/x").retry_policy) is SeedanceRetryPolicy
    assert type(operator(single(), "/x", retry_policy=Other()).retry_policy) is Other
