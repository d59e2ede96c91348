"""
The command line: ``airflow seedance …`` (Airflow 3.2 and later) and ``python -m airflow_provider_seedance …``.

Airflow's parser and our own are created from :data:`COMMANDS`. Airflow loads this module at every ``airflow``
command, so it imports each command on use only.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


class Argument:
    """Flags of an argument, and the keyword arguments of ``argparse``'s ``add_argument``."""

    def __init__(self, *flags: str, **options: Any) -> None:
        self.flags = flags
        self.options = options


@dataclass(frozen=True, kw_only=True)
class Command:
    """
    A command.

    :param target: Its implementation, as ``module:function``.
    """

    name: str
    help: str
    target: str
    arguments: tuple[Argument, ...] = ()

    def __call__(self, args: argparse.Namespace) -> None:
        """Run the command and exit with its exit code."""
        module, function = self.target.split(":")
        try:
            code = getattr(import_module(module), function)(args)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the output has ended. Without this, Python would report it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        if code:
            sys.exit(code)


_CLI = "airflow_provider_seedance.cli"

COMMANDS = (
    Command(
        name="demo",
        help="Run an example Dag on a private Airflow, with a local emulator or the real service",
        target=f"{_CLI}.demo:demo",
        arguments=(
            Argument("--keep", action="store_true", help="Leave Airflow running and print its address"),
            Argument("--yes", action="store_true", help="Spend money without a confirmation"),
            Argument("--output", default="seedance-demo", help="Directory for the results (%(default)s)"),
            Argument("--speed", type=float, default=4.0, help="Speed-up of the emulator (%(default)s)"),
        ),
    ),
    Command(
        name="emulator",
        help="Serve a local emulator of all services, with real media files",
        target=f"{_CLI}.serve_emulator:emulator",
        arguments=(
            Argument("--host", default="127.0.0.1", help="Address to listen on (%(default)s)"),
            Argument("--port", type=int, default=8123, help="Port to listen on (%(default)s)"),
            Argument("--speed", type=float, default=10.0, help="Speed-up of renders (%(default)s)"),
            Argument("--key", default="emulator-key", help="API key it accepts (%(default)s)"),
        ),
    ),
    Command(
        name="estimate",
        help="Estimate the cost of a file of requests, or of a Dag over a range of dates; sends nothing",
        target=f"{_CLI}.estimate:estimate_command",
        arguments=(
            Argument("requests", nargs="?", help="JSONL or CSV file of requests, local or s3://…"),
            Argument("--dag", help="Dag id, instead of a file of requests"),
            Argument("--file", help="The file of that Dag (default: search all bundles)"),
            Argument("--from", dest="since", help="First date of a backfill of that Dag, such as 2026-01-01"),
            Argument("--to", dest="until", help="Last date, included"),
            Argument("--conn-id", help="Airflow connection (seedance_default, or that of the tasks)"),
            Argument("--api", help="Service, instead of a connection: an estimate needs no key"),
            Argument("--model", help="Model of requests of a file that name none"),
            Argument("--duration", help="Their duration in seconds"),
            Argument("--resolution", help="Their resolution, such as 720p"),
            Argument("--aspect-ratio", help="Their aspect ratio, such as 16:9"),
            Argument("--output", choices=("table", "json"), default="table", help="Format (%(default)s)"),
        ),
    ),
    Command(
        name="render",
        help="Make one render without a Dag",
        target=f"{_CLI}.render:render",
        arguments=(
            Argument("prompt", nargs="?", help="Description of the video or image"),
            Argument("-o", "--output", required=True, help="File to write, such as clip.mp4"),
            Argument("--force", action="store_true", help="Overwrite the file if it exists"),
            Argument("--conn-id", help="Airflow connection (seedance_default)"),
            Argument("--model", help="Model name"),
            Argument("--duration", help="Length of the clip in seconds"),
            Argument("--resolution", help="Such as 720p"),
            Argument("--aspect-ratio", help="Such as 16:9"),
            Argument("--image", action="append", help="URL of an input image; can be repeated"),
            Argument("--audio", action="store_true", help="Make a sound track"),
            Argument("--watermark", choices=("true", "false"), help="Whether to print a watermark (ark)"),
            Argument("--draft", action="store_true", help="Make a cheap preview (ark)"),
            Argument("--service-tier", help="default or flex (ark)"),
            Argument("--still", action="store_true", help="Make an image instead of a video"),
            Argument("--timeout", type=float, default=3600, help="Seconds to wait for the end (%(default)s)"),
            Argument("--poll-interval", type=float, help="Seconds between status requests"),
            Argument("--generation-id", help="Fetch this generation instead of submitting one"),
        ),
    ),
)


_OUTPUT = Argument("--output", choices=("table", "json", "csv"), default="table", help="Format (%(default)s)")

#: Commands below ``airflow seedance ledger``.
LEDGER_COMMANDS = (
    Command(
        name="spend",
        help="Show what was spent, by day, Dag, task, model, connection or namespace",
        target=f"{_CLI}.ledger_commands:spend",
        arguments=(
            Argument("--from", dest="since", help="First date, such as 2026-01-01"),
            Argument("--to", dest="until", help="Last date, included"),
            Argument(
                "--by",
                choices=("day", "dag", "task", "model", "connection", "namespace"),
                default="day",
                help="Group (%(default)s)",
            ),
            _OUTPUT,
        ),
    ),
    Command(
        name="list",
        help="List submissions, the latest first",
        target=f"{_CLI}.ledger_commands:list_submissions",
        arguments=(
            Argument("--state", help="intent, uncertain, submitted, ended or not_submitted"),
            Argument("--dag", help="Dag id"),
            Argument("--run", help="Run id"),
            Argument("--since", help="Age such as 12h or 90d, or a date"),
            Argument("--text", help="Part of the prompt or of the generation id"),
            Argument("--limit", type=int, default=100, help="Number of submissions (%(default)s)"),
            _OUTPUT,
        ),
    ),
    Command(
        name="resolve",
        help="Settle an uncertain submission, for the next try of its task",
        target=f"{_CLI}.ledger_commands:resolve",
        arguments=(
            Argument("dag", help="Dag id"),
            Argument("run", help="Run id"),
            Argument("task", help="Task id"),
            Argument("--map-index", type=int, default=-1, help="Map index of a mapped task"),
            Argument("--loop-index", type=int, default=-1, help="Pass of a task loop"),
            Argument("--key", help="Key of an item of a batch"),
            Argument("--generation-id", help="The generation that was billed"),
            Argument("--not-billed", action="store_true", help="Nothing was billed"),
        ),
    ),
    Command(
        name="prune",
        help="Delete submissions that have ended; keeps what is in flight or uncertain",
        target=f"{_CLI}.ledger_commands:prune",
        arguments=(
            Argument("--older-than", required=True, help="Age such as 12h or 90d, or a date"),
            Argument("--yes", action="store_true", help="Delete without a confirmation"),
        ),
    ),
    Command(
        name="export",
        help="Print all submissions as JSON lines",
        target=f"{_CLI}.ledger_commands:export",
    ),
)

_LEDGER_HELP = "Look up what was submitted and spent, and settle uncertain submissions"


def get_seedance_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow's command line, which has loaded what is imported here."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    def actions(commands: Sequence[Command]) -> list[ActionCommand | GroupCommand]:
        return [
            ActionCommand(
                name=command.name,
                help=command.help,
                func=command,
                args=[
                    Arg(argument.flags, **argument.options)  # type: ignore[no-untyped-call]
                    for argument in command.arguments
                ],
            )
            for command in commands
        ]

    return [
        GroupCommand(
            name="seedance",
            help="Generate videos and images with ByteDance Seedance and Seedream",
            subcommands=[
                *actions(COMMANDS),
                GroupCommand(name="ledger", help=_LEDGER_HELP, subcommands=actions(LEDGER_COMMANDS)),
            ],
        )
    ]


class _Parser(argparse.ArgumentParser):
    """Parser that prints its help after a mistake or without a command, as Airflow's does."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}, see the help above.\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line, the same on every version of Airflow."""
    parser = _Parser(prog="airflow seedance", description=__doc__.split("\n\n")[0].strip())
    commands = _add_commands(parser, COMMANDS)
    _add_commands(commands.add_parser("ledger", help=_LEDGER_HELP, description=_LEDGER_HELP), LEDGER_COMMANDS)
    args = parser.parse_args(argv)
    args.func(args)


def _add_commands(parser: argparse.ArgumentParser, added: Sequence[Command]) -> Any:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in added:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        for argument in command.arguments:
            sub.add_argument(*argument.flags, **argument.options)
        sub.set_defaults(func=command)
    return commands
