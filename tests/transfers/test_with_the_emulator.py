"""The transfer from every emulated service: its URLs, their expiry, its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import ALL_APIS

from airflow_provider_seedance.generations import ImageRequest, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from transfers.results import run


@pytest.mark.parametrize("api", ALL_APIS)
def test_every_service(api: str, connect: Any, tmp_path: Path) -> None:
    connect(api)
    hook = SeedanceHook()
    made = hook.wait(hook.submit(VideoRequest(prompt="A lamp")).generation_id).result()
    stored = run(made, f"{tmp_path}/out.mp4")
    assert stored["bytes"] == (tmp_path / "out.mp4").stat().st_size > 0
    # A URL that no longer works: the service renews it.
    made["urls"] = [made["urls"][0].partition("?")[0] + "-gone"]
    assert run(made, f"{tmp_path}/again.mp4")["sha256"] == stored["sha256"]


def test_images(connect: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    connect("seedance2api")
    hook = SeedanceHook()
    submitted = hook.submit(ImageRequest(prompt="A lamp", num_images=3))
    made = hook.wait(submitted.generation_id, media="image").result()
    stored = run(made, f"{folder}/")
    assert len(stored["paths"]) == len(made["urls"]) == len(list(folder.iterdir()))


class TestWithoutAStoredCopy:
    """OpenRouter's own copy of an output may not exist; then the output needs the key."""

    @pytest.fixture
    def emulator_options(self) -> dict[str, Any]:
        return {"shape": "flat"}

    def test_an_output_that_needs_the_key(self, services: Any, connect: Any, tmp_path: Path) -> None:
        connect("openrouter")
        hook = SeedanceHook()
        made = hook.wait(hook.submit(VideoRequest(prompt="A lamp")).generation_id).result()
        assert made["url"].startswith(services.base_url("openrouter"))
        stored = run(made, f"{tmp_path}/out.mp4")
        assert stored["bytes"] == (tmp_path / "out.mp4").stat().st_size > 0


class TestSeveralConnections:
    """The transfer takes the list of the task that generated."""

    @pytest.mark.parametrize("api", ["seedanceapi-v1", "runbase"])
    def test_the_service_that_the_result_names_renews_its_urls(
        self, api: str, connect: Any, tmp_path: Path
    ) -> None:
        connect("runbase", conn_id="first")
        connect("seedanceapi-v1", conn_id="second")
        hook = SeedanceHook("first" if api == "runbase" else "second")
        made = hook.wait(hook.submit(VideoRequest(prompt="A lamp")).generation_id).result()
        made["urls"] = [made["urls"][0].partition("?")[0] + "-gone"]
        stored = run(made, f"{tmp_path}/out.mp4", seedance_conn_id=["first", "second"])
        assert stored["bytes"] > 0

    def test_another_account_of_the_service_is_queried_if_the_first_does_not_know_it(
        self, start_emulator: Any, services: Any, connect: Any, monkeypatch: Any, tmp_path: Path
    ) -> None:
        other = start_emulator()
        connect("runbase", conn_id="first")
        monkeypatch.setenv("AIRFLOW_CONN_SECOND", other.connection_json("runbase"))
        hook = SeedanceHook("second")
        made = hook.wait(hook.submit(VideoRequest(prompt="A lamp")).generation_id).result()
        made["urls"] = [made["urls"][0].partition("?")[0] + "-gone"]
        assert run(made, f"{tmp_path}/out.mp4", seedance_conn_id=["first", "second"])["bytes"] > 0
