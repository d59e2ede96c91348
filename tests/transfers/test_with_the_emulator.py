"""The transfer from every emulated service: its files are as requested, its URLs are renewed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import ALL_APIS
from operators.generation_task import make
from support import Store, TaskInstance, make_context

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.operators.seedance import SeedreamGenerateImageOperator
from transfers.results import run

#: Arguments that services take, with a sound track where they have one.
VIDEOS: dict[str, dict[str, Any]] = {
    "seedance2api": {"duration": 5, "resolution": "720p"},
    "seedanceapi-v1": {"duration": 4, "resolution": "480p", "aspect_ratio": "1:1", "generate_audio": True},
    "seedanceapi-v2": {"duration": 5, "resolution": "480p", "aspect_ratio": "16:9"},
    "runbase": {"duration": 4, "resolution": "480p", "aspect_ratio": "4:3", "generate_audio": True},
    "ark": {"duration": 4, "resolution": "480p", "aspect_ratio": "21:9", "return_last_frame": True},
    "fal": {"duration": 4, "resolution": "480p", "aspect_ratio": "16:9", "generate_audio": True},
    "replicate": {"duration": 5, "resolution": "480p", "aspect_ratio": "3:4"},
    "openrouter": {"duration": 5, "resolution": "480p"},
}


@pytest.fixture
def emulator_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return getattr(request, "param", {})


def deliver(operator: Any) -> Any:
    return operator.execute(make_context(Store(), TaskInstance()))


def result_of(conn_id: str = "seedance_default", **arguments: Any) -> Any:
    return deliver(make(deferrable=False, seedance_conn_id=conn_id, **arguments))


def without_its_url(made: Any) -> Any:
    """Return a result whose first URL no longer works, so that the service has to renew it."""
    return {**made, "urls": [made["urls"][0].partition("?")[0] + "-gone", *made["urls"][1:]]}


with_media = pytest.mark.parametrize("emulator_options", [{"media": True}], ids=["media"], indirect=True)


@with_media
@pytest.mark.parametrize("api", ALL_APIS)
def test_videos(api: str, connect: Any, tmp_path: Path) -> None:
    connect(api)
    made = result_of(**VIDEOS[api])
    done = run(made, f"{tmp_path}/", verify="fail")
    suffixes = [".mp4", ".jpeg"] if api == "ark" else [".mp4"]
    assert [Path(path).suffix for path in done["paths"]] == suffixes
    assert done["problems"] == []
    assert run(without_its_url(made), f"{tmp_path}/again/")["sha256"] == done["sha256"]


@with_media
@pytest.mark.parametrize("api", ["seedance2api", "ark", "fal", "replicate"])
def test_images(api: str, connect: Any, tmp_path: Path) -> None:
    connect(api)
    operator = SeedreamGenerateImageOperator(task_id="image", prompt="A lamp", num_images=2, deferrable=False)
    done = run(deliver(operator), f"{tmp_path}/", verify="fail")
    assert (len(done["paths"]), done["problems"]) == (2, [])


@with_media
def test_file_of_another_request(connect: Any, tmp_path: Path) -> None:
    connect("seedanceapi-v1")
    silent = result_of(**{**VIDEOS["seedanceapi-v1"], "generate_audio": False})
    loud = {**silent, "request": {"duration": 12, "aspect_ratio": "16:9", "generate_audio": True}}
    with pytest.raises(errors.SeedanceMediaRejectedError) as caught:
        run(loud, f"{tmp_path}/", verify="fail")
    for problem in ("12 s were requested", "16:9 was requested", "it is silent"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("emulator_options", [{"shape": "flat"}], ids=["no stored copy"], indirect=True)
def test_an_output_that_needs_the_key(services: Any, connect: Any, tmp_path: Path) -> None:
    """OpenRouter's own copy of an output may not exist."""
    connect("openrouter")
    made = result_of()
    assert made["url"].startswith(services.base_url("openrouter"))
    assert run(made, f"{tmp_path}/out.mp4")["bytes"] == (tmp_path / "out.mp4").stat().st_size > 0


# ---------------------------------------------------------------------- several connections


@pytest.mark.parametrize(("api", "conn_id"), [("runbase", "first"), ("seedanceapi-v1", "second")])
def test_the_service_that_the_result_names_renews_its_urls(
    api: str, conn_id: str, connect: Any, tmp_path: Path
) -> None:
    connect("runbase", conn_id="first")
    connect("seedanceapi-v1", conn_id="second")
    made = without_its_url(result_of(conn_id))
    assert made["api"] == api
    assert run(made, f"{tmp_path}/out.mp4", seedance_conn_id=["first", "second"])["bytes"] > 0


def test_another_account_of_the_service_is_queried_if_the_first_does_not_know_it(
    start_emulator: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connect("runbase", conn_id="first")
    monkeypatch.setenv("AIRFLOW_CONN_SECOND", start_emulator().connection_json("runbase"))
    made = without_its_url(result_of("second"))
    assert run(made, f"{tmp_path}/out.mp4", seedance_conn_id=["first", "second"])["bytes"] > 0
