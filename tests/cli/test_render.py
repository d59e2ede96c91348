"""``render``: its messages where it stops, so that nothing paid for is lost and nothing is promised in vain."""

from __future__ import annotations

import argparse
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
from airflow_provider_seedance.cli import COMMANDS, main, render
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.version_compat import COMMAND_WORDS

Connect = Callable[..., None]
#: Runs the command; returns its exit code and what it printed.
Render = Callable[..., tuple[int, str]]


@pytest.fixture
def command(connect: Connect, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Render:
    connect("ark")

    def run(*line: str, output: str = "lamp.mp4") -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        next(command for command in COMMANDS if command.name == "render").add_to(parser)
        output = str(tmp_path / output)
        code = render.render(parser.parse_args(["--poll-interval", "0.01", *line, "-o", output]))
        return code, capfd.readouterr().err

    return run


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
    exit_code, printed = command("A lamp", "--still", output="lamp.png")
    assert exit_code == code
    assert shown
    assert all(f"  {url}\n" in printed for url in shown)
    assert "paid for" in printed
    assert "--generation-id" not in printed


@pytest.mark.parametrize("message", ["no luck", "InputTextSensitiveContentDetected"])
def test_no_fetch_command_for_a_generation_that_did_not_succeed(
    command: Render, services: SeedanceEmulator, message: str
) -> None:
    services.fault("fail", message=message)
    code, printed = command("A lamp")
    assert code == 1
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
    code, printed = command("A lamp")
    assert code == 1
    assert error.message in printed
    assert "not lost" not in printed


def test_an_interrupt_during_the_submission_warns_of_a_possible_bill(
    command: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SeedanceHook, "submit_prepared", interrupt)
    code, printed = command("A lamp")
    assert code == 130
    assert "a generation may have been billed" in printed
    assert "console of the service" in printed
    monkeypatch.setattr(SeedanceHook, "prepare", interrupt)
    code, printed = command("A lamp")
    assert code == 130
    assert "billed" not in printed


def test_the_fetch_command_is_quoted_for_a_shell(
    command: Render, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("ark", conn_id="my_conn")
    monkeypatch.setattr(SeedanceHook, "get_generation", interrupt)
    output = "a lamp's $HOME.mp4"
    code, printed = command("--conn-id", "my_conn", "--generation-id", "a b;c", output=output)
    assert code == 130
    assert shlex.split(printed.strip().splitlines()[-1]) == [
        *(*COMMAND_WORDS, "render", "--generation-id", "a b;c"),
        *("--conn-id", "my_conn", "-o", str(tmp_path / output)),
    ]
    assert "Generation a b;c was not read" in printed
    assert "paid for" not in printed


def test_an_unknown_generation_fails_at_the_first_answer(command: Render, services: SeedanceEmulator) -> None:
    code, printed = command("--generation-id", "cgt-unknown")
    assert code == 1
    assert "answered 404" in printed
    assert "accepted" not in printed
    assert "paid for" not in printed
    assert len(services.ledger.requests) == 1


def test_a_file_that_exists_is_no_reason_to_repeat_the_command(command: Render, tmp_path: Path) -> None:
    (tmp_path / "lamp.mp4").write_text("mine")
    code, printed = command("--generation-id", "cgt-1")
    assert code == 1
    assert "lamp.mp4 exists. Nothing was sent. Choose another file" in printed
    assert "Fetch it" not in printed


def test_a_misspelt_key_of_the_connection_is_named(command: Render, connect: Connect) -> None:
    connect("ark", modle="x")
    _, printed = command("A lamp")
    assert "the extra has the unknown key 'modle'. Known keys: api, " in printed
    assert "Did you mean 'model'?" in printed


def test_a_file_is_overwritten_with_force_only(
    command: Render, services: SeedanceEmulator, tmp_path: Path
) -> None:
    (tmp_path / "lamp.mp4").write_text("mine")
    code, printed = command("A lamp")
    assert (code, services.ledger.requests) == (1, [])
    assert "exists. Nothing was sent" in printed
    assert (tmp_path / "lamp.mp4").read_text() == "mine"
    code, _ = command("A lamp", "--force")
    assert code == 0
    assert (tmp_path / "lamp.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_signal_to_end_prints_the_fetch_command(command: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(SeedanceHook, "wait_for_end", end)
    code, printed = command("A lamp")
    assert code == 130
    assert "is paid for and not lost" in printed


def test_every_output_is_stored(command: Render, connect: Connect, tmp_path: Path) -> None:
    connect("seedance2api")
    line = ("A lamp", "--still", "--num-images", "2", "--quiet")
    (tmp_path / "lamp-2.png").write_text("mine")
    code, printed = command(*line, output="lamp.png")
    assert code == 1
    assert "lamp-2.png exists. Nothing was sent" in printed
    assert command(*line, "--force", output="lamp.png") == (0, "")
    assert (tmp_path / "lamp.png").stat().st_size > 10
    assert (tmp_path / "lamp-2.png").read_bytes() != b"mine"


def test_the_last_frame_is_stored_beside_the_clip(command: Render, tmp_path: Path) -> None:
    line = ("A lamp", "--return-last-frame", "--quiet")
    (tmp_path / "lamp-last-frame.jpg").write_text("mine")
    code, printed = command(*line)
    assert code == 1
    assert "lamp-last-frame.jpg exists. Nothing was sent" in printed
    assert command(*line, "--force") == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lamp-last-frame.jpg", "lamp.mp4"]
    assert (tmp_path / "lamp-last-frame.jpg").read_bytes() != b"mine"


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
    code, printed = command("A lamp", "--duration", "4", "--max-cost-usd", limit)
    assert (code, services.ledger.requests) == (1, [])
    assert "more than --max-cost-usd=" in printed
    assert "Nothing was sent." in printed
    assert command("A lamp", "--duration", "4", "--max-cost-usd", "1")[0] == 0


def test_a_limit_without_a_price_is_refused(
    command: Render, connect: Connect, services: SeedanceEmulator
) -> None:
    connect("seedance2api")
    code, printed = command("A lamp", "--max-credits", "5")
    assert (code, services.ledger.requests) == (1, [])
    assert "max_credits=5 cannot be honoured" in printed
