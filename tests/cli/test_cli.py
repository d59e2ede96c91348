"""The command line: described once, the same for Airflow and for ``python -m``."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytest

from airflow_provider_seedance import cli
from airflow_provider_seedance.cli import COMMANDS, LEDGER_COMMANDS, Command, get_seedance_cli_commands, main


def airflow_parser() -> argparse.ArgumentParser:
    """Make the parser as Airflow does."""
    parser = argparse.ArgumentParser(prog="airflow")
    add_commands(parser, get_seedance_cli_commands())
    return parser


def add_commands(parser: argparse.ArgumentParser, commands: Iterable[Any]) -> None:
    group = parser.add_subparsers(required=True)
    for command in commands:
        sub = group.add_parser(command.name, help=command.help)
        if hasattr(command, "subcommands"):
            add_commands(sub, command.subcommands)
            continue
        for argument in command.args:
            argument.add_to_parser(sub)
        sub.set_defaults(func=command.func)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Commands do nothing but to note that they were called."""
    seen: list[argparse.Namespace] = []
    load = cli._load
    monkeypatch.setattr(
        cli, "_load", lambda target: load(target) if target.endswith("_options") else seen.append
    )
    return seen


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "demo --keep --yes --output x --speed 8",
        "emulator --port 0 --key k",
        "render Lamp -o clip.mp4 --images a --images b --duration 5",
        "render Lamp --file clip.mp4 --output json --quiet --no-watermark --max-credits 5",
        "status g-1 g-2 --still --output json",
        "wait g-1 --timeout 60 --quiet",
        "render --generation-id g-1 -o clip.mp4",
        "estimate requests.jsonl --api ark --output json",
        "estimate --dag d --from 2026-01-01 --to 2026-01-31",
        "ledger spend --by dag --from 2026-01-01 --output csv",
        "ledger resolve d r t --map-index 3 --not-billed",
    ],
)
def test_both_parsers_read_the_same(line: str, called: list[argparse.Namespace]) -> None:
    main(line.split())
    args = airflow_parser().parse_args(["seedance", *line.split()])
    args.func(args)
    ours, airflows = (vars(one) for one in called)
    assert {name: value for name, value in ours.items() if name not in ("func", "command")} == {
        name: value for name, value in airflows.items() if name != "func"
    }
    assert ours["func"] == airflows["func"]


def test_every_command_has_an_implementation_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A help text names its noun and no option above it, and begins and ends like every other."""
    for command in (*COMMANDS, *LEDGER_COMMANDS):
        assert callable(cli._load(command.target))
        for argument in cli._load(command.derived)() if command.derived else command.arguments:
            text = argument.options["help"]
            assert text[0].isupper(), text
            assert not text.endswith("."), text
            assert not re.match(r"(Such as|Their|Its|Of|That|The same)\b", text), text
        with pytest.raises(SystemExit) as left:
            main([*(["ledger"] if command in LEDGER_COMMANDS else []), command.name, "--help"])
        assert left.value.code == 0
        assert command.help.split()[0] in capsys.readouterr().out


def test_the_options_of_render_are_in_the_order_of_thought(capsys: pytest.CaptureFixture[str]) -> None:
    titles = ("inputs:", "model and format:", "output:", "money:", "waiting:", "connection:")
    with pytest.raises(SystemExit):
        main(["render", "--help"])
    ours = capsys.readouterr().out
    with pytest.raises(SystemExit):
        airflow_parser().parse_args(["seedance", "render", "--help"])
    for shown in (ours, capsys.readouterr().out):
        places = [shown.index(title) for title in ("[prompt]", *titles)]
        assert places == sorted(places)


@pytest.mark.parametrize("code", [0, None, 1, 3])
def test_the_exit_code(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    monkeypatch.setattr(cli, "_load", lambda target: lambda args: code)
    with pytest.raises(SystemExit) if code else nullcontext() as left:
        Command(name="x", help="y", target="somewhere:run")(argparse.Namespace())
    assert not code or left.value.code == code


def test_an_invalid_command_line(run: Callable[..., tuple[Any, str]]) -> None:
    for line in [[], ["lunch"], ["render", "A lamp"], ["emulator", "--port", "x"]]:
        _, printed = run(*line, code=2)
        assert "usage: airflow seedance" in printed
        assert "see the help above" in printed
        assert line or "Estimate the cost of a file of requests" in printed


@pytest.mark.parametrize("of_airflow", [False, True])
@pytest.mark.parametrize(
    ("line", "command", "question"),
    [
        (["render", "A lamp", "-o", "x.mp4", "--durration", "8"], "render", "did you mean --duration?"),
        (["ledger", "spend", "--form", "2026-01-01"], "ledger spend", "did you mean --from?"),
        (["status", "cgt-1", "--zzzzzz"], "status", "unrecognized arguments: --zzzzzz"),
    ],
)
def test_an_unknown_option_is_an_error_of_its_command(
    line: list[str], command: str, question: str, capsys: pytest.CaptureFixture[str], *, of_airflow: bool
) -> None:
    with pytest.raises(SystemExit) as left:
        airflow_parser().parse_args(["seedance", *line]) if of_airflow else main(line)
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert f"usage: airflow seedance {command} [-h]" in (shown.out + shown.err).replace("Usage", "usage")
    assert question in shown.err


def test_it_runs_as_a_module_without_loading_airflow() -> None:
    code = """
import contextlib, runpy, sys
sys.argv = ["airflow_provider_seedance", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_module("airflow_provider_seedance", run_name="__main__")
heavy = {"airflow", "httpx", "av", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for command in COMMANDS:
        assert command.name in shown.stdout


def test_a_broken_pipe_is_not_a_traceback() -> None:
    code = (
        "import sys, types; from airflow_provider_seedance import cli; "
        "module = sys.modules['airflow_provider_seedance.cli.estimate'] = types.ModuleType('estimate'); "
        "module.estimate_command = lambda args: print('x' * 1000000); cli.main(['estimate', 'f'])"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        errors = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors
