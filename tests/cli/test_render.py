"""``render``: its messages where it stops, so that nothing paid for is lost and nothing is promised in vain."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli import main, render
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.version_compat import COMMAND_WORDS

Connect = Callable[..., None]
Render = Callable[..., str]


@pytest.fixture
def command(connect: Connect, tmp_path: Path, run: Callable[..., tuple[Any, str]]) -> Render:
    """Run ``render``, which exits with a code; return what it printed."""
    connect("ark")

    def of_lamp(*line: str, output: str = "lamp.mp4", code: int = 0) -> str:
        output = str(tmp_path / output)
        return run("render", "--poll-interval", "0.01", *line, "-o", output, code=code)[1]

    return of_lamp


def broken(*arguments: Any) -> Any:
    raise errors.SeedanceMediaError("The disk is full.")


def interrupt(*arguments: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("failure", "code"), [(broken, 1), (interrupt, 130)])
def test_the_outputs_of_a_synchronous_image_are_shown_in_full(
    command: Render, monkeypatch: pytest.MonkeyPatch, failure: Any, code: int
) -> None:
    shown: list[str] = []
    real = SeedanceHook.submit_prepared

    def submit(hook: SeedanceHook, prepared: Any) -> Any:
        generation = real(hook, prepared)
        shown.extend(generation.urls)
        return generation

    monkeypatch.setattr(SeedanceHook, "submit_prepared", submit)
    monkeypatch.setattr(render, "_download", failure)
    printed = command("A lamp", "--still", output="lamp.png", code=code)
    assert shown
    assert all(f"  {url}\n" in printed for url in shown)
    assert "paid for" in printed
    assert "--generation-id" not in printed


@pytest.mark.parametrize("message", ["no luck", "InputTextSensitiveContentDetected"])
def test_no_fetch_command_for_a_generation_that_did_not_succeed(
    command: Render, services: SeedanceEmulator, message: str
) -> None:
    services.fault("fail", message=message)
    printed = command("A lamp", code=1)
    assert message in printed
    assert "not lost" not in printed
    assert "--generation-id" not in printed


@pytest.mark.parametrize(
    "error",
    [
        errors.SeedanceGenerationCancelledError("cancelled", generation_id="g1"),
        errors.SeedanceGenerationFailedError("expired", generation_id="g1"),
        errors.SeedanceModerationError("refused", generation_id="g1"),
        errors.SeedanceOutputGoneError("gone", generation_id="g1"),
        errors.SeedanceNotFoundError("who?", generation_id="g1"),
    ],
)
def test_no_fetch_command_without_a_generation(
    command: Render, monkeypatch: pytest.MonkeyPatch, error: errors.SeedanceError
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(SeedanceHook, "wait_for_end", fail)
    printed = command("A lamp", code=1)
    assert error.message in printed
    assert "not lost" not in printed


def test_an_interrupt_during_the_submission_warns_of_a_possible_bill(
    command: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SeedanceHook, "submit_prepared", interrupt)
    printed = command("A lamp", code=130)
    assert "a generation may have been billed" in printed
    assert "console of the service" in printed
    monkeypatch.setattr(SeedanceHook, "prepare", interrupt)
    printed = command("A lamp", code=130)
    assert "billed" not in printed


def test_the_fetch_command_is_quoted_for_a_shell(
    command: Render, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark", conn_id="my_conn")
    monkeypatch.setattr(SeedanceHook, "get_generation", interrupt)
    output = "a lamp's $HOME.mp4"
    printed = command("--conn-id", "my_conn", "--generation-id", "a b;c", output=output, code=130)
    assert shlex.split(printed.strip().splitlines()[-1]) == [
        *(*COMMAND_WORDS, "render", "--generation-id", "a b;c"),
        *("--conn-id", "my_conn", "-o", str(tmp_path / output)),
    ]
    assert "Generation a b;c was not read" in printed
    assert "paid for" not in printed


def test_an_unknown_generation_fails_at_the_first_answer(command: Render, services: SeedanceEmulator) -> None:
    printed = command("--generation-id", "cgt-unknown", code=1)
    assert "answered 404" in printed
    assert "accepted" not in printed
    assert "paid for" not in printed
    assert len(services.ledger.requests) == 1


def test_a_file_that_exists_is_no_reason_to_repeat_the_command(command: Render, tmp_path: Path) -> None:
    (tmp_path / "lamp.mp4").write_text("mine")
    printed = command("--generation-id", "cgt-1", code=1)
    assert "lamp.mp4 exists. Nothing was sent. Choose another file" in printed
    assert "Fetch it" not in printed


def test_a_misspelt_key_of_the_connection_is_named(command: Render, connect: Connect) -> None:
    connect("ark", modle="x")
    printed = command("A lamp")
    assert "the extra has the unknown key 'modle'. Known keys: api, " in printed
    assert "Did you mean 'model'?" in printed


@pytest.mark.parametrize(
    ("api", "line", "files"),
    [
        ("ark", (), ["lamp.mp4"]),
        ("ark", ("--return-last-frame",), ["lamp.mp4", "lamp-last-frame.jpg"]),
        ("seedance2api", ("--still", "--num-images", "2"), ["lamp.png", "lamp-2.png"]),
    ],
    ids=["clip", "clip and last frame", "two images"],
)
def test_every_output_is_stored_and_overwrites_with_force_only(
    command: Render,
    connect: Connect,
    services: SeedanceEmulator,
    tmp_path: Path,
    api: str,
    line: tuple[str, ...],
    files: list[str],
) -> None:
    connect(api)
    (tmp_path / files[-1]).write_text("mine")
    printed = command("A lamp", *line, output=files[0], code=1)
    assert services.ledger.requests == []
    assert f"{files[-1]} exists. Nothing was sent" in printed
    assert (tmp_path / files[-1]).read_text() == "mine"
    assert command("A lamp", *line, "--quiet", "--force", output=files[0]) == ""
    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert stored.keys() == set(files)
    assert min(map(len, stored.values())) > 10


def test_a_signal_to_end_prints_the_fetch_command(command: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(SeedanceHook, "wait_for_end", end)
    printed = command("A lamp", code=130)
    assert "is paid for and not lost" in printed


def test_the_result_is_json(connect: Connect, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    connect("seedance2api")
    output = ["--output", "json", "-o", str(tmp_path / "lamp.png")]
    main(["render", "A lamp", "--still", "--num-images", "2", *output])
    shown = capfd.readouterr()
    assert "is billed from now on" in shown.err
    result = json.loads(shown.out)
    assert (result["status"], len(result["urls"])) == ("succeeded", 2)
    files = [Path(file["path"]) for file in result["files"]]
    assert files == [tmp_path / "lamp.png", tmp_path / "lamp-2.png"]
    assert [file.stat().st_size for file in files] == [file["bytes"] for file in result["files"]]


@pytest.mark.parametrize("limit", ["0.01", "nan"])
def test_a_render_over_its_limit_is_not_sent(
    command: Render, connect: Connect, services: SeedanceEmulator, limit: str
) -> None:
    connect("seedanceapi-v1")
    printed = command("A lamp", "--duration", "4", "--max-cost-usd", limit, code=1)
    assert services.ledger.requests == []
    assert "more than --max-cost-usd=" in printed
    assert "Nothing was sent." in printed
    command("A lamp", "--duration", "4", "--max-cost-usd", "1")
    assert len(services.ledger.submissions) == 1


def test_a_limit_without_a_price_is_refused(
    command: Render, connect: Connect, services: SeedanceEmulator
) -> None:
    connect("seedance2api")
    printed = command("A lamp", "--max-credits", "5", code=1)
    assert services.ledger.requests == []
    assert "max_credits=5 cannot be honoured" in printed
