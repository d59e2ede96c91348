"""The transfer from every emulated service: its URLs, their expiry, its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import ALL_APIS

from airflow_provider_seedance.generations import ImageRequest, VideoRequest
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from transfers.results import run


def result_of(conn_id: str = "seedance_default") -> Any:
    hook = SeedanceHook(conn_id)
    return hook.wait(hook.submit(VideoRequest(prompt="A lamp")).generation_id).result()


def without_its_url(made: Any) -> Any:
    """Return a result whose URL no longer works, so that the service has to renew it."""
    return {**made, "urls": [made["urls"][0].partition("?")[0] + "-gone"]}


@pytest.mark.parametrize("api", ALL_APIS)
def test_every_service(api: str, connect: Any, tmp_path: Path) -> None:
    connect(api)
    made = result_of()
    stored = run(made, f"{tmp_path}/out.mp4")
    assert stored["bytes"] == (tmp_path / "out.mp4").stat().st_size > 0
    assert run(without_its_url(made), f"{tmp_path}/again.mp4")["sha256"] == stored["sha256"]


def test_images(connect: Any, tmp_path: Path) -> None:
    connect("seedance2api")
    hook = SeedanceHook()
    submitted = hook.submit(ImageRequest(prompt="A lamp", num_images=3))
    made = hook.wait(submitted.generation_id, media="image").result()
    stored = run(made, f"{tmp_path}/images/")
    assert len(stored["paths"]) == len(made["urls"]) == len(list((tmp_path / "images").iterdir()))


class TestWithoutAStoredCopy:
    """OpenRouter's own copy of an output may not exist; then the output needs the key."""

    @pytest.fixture
    def emulator_options(self) -> dict[str, Any]:
        return {"shape": "flat"}

    def test_an_output_that_needs_the_key(self, services: Any, connect: Any, tmp_path: Path) -> None:
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
