"""``render``: what it tells where it stops, so that nothing paid for is lost and nothing is promised in vain."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli import COMMANDS, render
from airflow_provider_seedance.emulator.emulator import SeedanceEmulator
from airflow_provider_seedance.hooks.seedance import SeedanceHook

Connect = Callable[..., None]


def arguments(*line: str) -> argparse.Namespace:
    """Read a command line as the command does."""
    parser = argparse.ArgumentParser()
    for argument in next(command for command in COMMANDS if command.name == "render").arguments:
        parser.add_argument(*argument.flags, **argument.options)
    return parser.parse_args(["--poll-interval", "0.01", *line])


@pytest.fixture(autouse=True)
def _no_service_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEDANCE_API_KEY", "SEEDANCE_API", "SEEDANCE_BASE_URL", "SEEDANCE_MEDIA_HOSTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _the_log_as_it_was() -> Iterator[None]:
    log = logging.getLogger("airflow_provider_seedance")
    level = log.level
    yield
    log.setLevel(level)


def broken(*arguments: Any) -> Any:
    raise errors.SeedanceMediaError("The disk is full.")


def interrupt(*arguments: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


def test_the_outputs_of_a_synchronous_image_are_shown_in_full(
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect("ark")
    shown: list[str] = []
    real = SeedanceHook.submit

    def submit(hook: SeedanceHook, request: Any) -> Any:
        generation = real(hook, request)
        shown.extend(generation.urls)
        return generation

    monkeypatch.setattr(SeedanceHook, "submit", submit)
    for failure, code in ((broken, 1), (interrupt, 130)):
        shown.clear()
        monkeypatch.setattr(render, "_download", failure)
        assert render.render(arguments("A lamp", "--still", "-o", str(tmp_path / "lamp.png"))) == code
        printed = capsys.readouterr().err
        assert shown
        assert all(f"  {url}\n" in printed for url in shown)
        assert "paid for" in printed
        assert "--generation-id" not in printed


def test_no_fetch_command_for_a_generation_that_did_not_succeed(
    services: SeedanceEmulator, connect: Connect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connect("ark")
    for message in ("no luck", "InputTextSensitiveContentDetected"):
        services.fault("fail", message=message)
        assert render.render(arguments("A lamp", "-o", str(tmp_path / "lamp.mp4"))) == 1
        printed = capsys.readouterr().err
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
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: errors.SeedanceError,
) -> None:
    connect("ark")

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(SeedanceHook, "wait_for_end", fail)
    assert render.render(arguments("A lamp", "-o", str(tmp_path / "lamp.mp4"))) == 1
    printed = capsys.readouterr().err
    assert error.message in printed
    assert "not lost" not in printed


def test_an_interrupt_during_the_submission_warns_of_a_possible_bill(
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect("ark")
    monkeypatch.setattr(SeedanceHook, "submit", interrupt)
    assert render.render(arguments("A lamp", "-o", str(tmp_path / "lamp.mp4"))) == 130
    printed = capsys.readouterr().err
    assert "a generation may have been billed" in printed
    assert "console of the service" in printed
    monkeypatch.setattr(SeedanceHook, "prepare", interrupt)
    assert render.render(arguments("A lamp", "-o", str(tmp_path / "lamp.mp4"))) == 130
    assert "billed" not in capsys.readouterr().err


def test_the_fetch_command_is_quoted_for_a_shell(
    services: SeedanceEmulator,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect("ark", conn_id="my_conn")
    monkeypatch.setattr(SeedanceHook, "wait_for_end", interrupt)
    output = str(tmp_path / "a lamp's $HOME.mp4")
    line = arguments("--conn-id", "my_conn", "--generation-id", "a b;c", "-o", output)
    assert render.render(line) == 130
    advice = capsys.readouterr().err.strip().splitlines()[-1]
    assert shlex.split(advice) == [
        *("airflow", "seedance", "render", "--generation-id", "a b;c"),
        *("--conn-id", "my_conn", "-o", output),
    ]
