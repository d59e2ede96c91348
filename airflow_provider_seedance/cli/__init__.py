"""
The command line: ``airflow seedance …`` (Airflow 3.2 and later) and ``python -m airflow_provider_seedance …``.

Airflow's parser and our own are created from :data:`COMMANDS`. Airflow loads this module at every ``airflow``
command, so it imports each command on use only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


@dataclass(frozen=True)
class Argument:
    """Flags of an argument, and the keyword arguments of ``argparse``'s ``add_argument``."""

    flags: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


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
        code = getattr(import_module(module), function)(args)
        if code:
            sys.exit(code)


def _argument(*flags: str, **options: Any) -> Argument:
    return Argument(flags, options)


_CLI = "airflow_provider_seedance.cli"

COMMANDS = (
    Command(
        name="demo",
        help="Run an example Dag on a private Airflow, with a local emulator or the real service",
        target=f"{_CLI}.demo:demo",
        arguments=(
            _argument("--keep", action="store_true", help="Leave Airflow running and print its address"),
            _argument(
                "--yes", action="store_true", help="Spend money on the real service without a confirmation"
            ),
            _argument("--output", default="seedance-demo", help="Directory for the results (%(default)s)"),
            _argument(
                "--speed",
                type=float,
                default=4.0,
                help="Speed of the emulator, as a multiple of the real service's (%(default)s)",
            ),
        ),
    ),
    Command(
        name="emulator",
        help="Serve a local emulator of all services, with real media files",
        target=f"{_CLI}.serve_emulator:emulator",
        arguments=(
            _argument("--host", default="127.0.0.1", help="Address to listen on (%(default)s)"),
            _argument("--port", type=int, default=8123, help="Port to listen on (%(default)s)"),
            _argument(
                "--speed",
                type=float,
                default=10.0,
                help="Speed, as a multiple of the real service's (%(default)s)",
            ),
            _argument("--key", default="emulator-key", help="API key it accepts (%(default)s)"),
        ),
    ),
    Command(
        name="estimate",
        help="Estimate the cost of a file of requests, or of a Dag over a range of dates; sends nothing",
        target=f"{_CLI}.estimate:estimate_command",
        arguments=(
            _argument("requests", nargs="?", help="JSONL or CSV file of requests, local or s3://…"),
            _argument("--dag", help="Dag id, instead of a file of requests"),
            _argument("--file", help="The file of that Dag (default: search all bundles)"),
            _argument(
                "--from", dest="since", help="First date of a backfill of that Dag, such as 2026-01-01"
            ),
            _argument("--to", dest="until", help="Last date, included"),
            _argument("--conn-id", help="Airflow connection (seedance_default, or that of the tasks)"),
            _argument("--api", help="Service, instead of a connection: an estimate needs no key"),
            _argument("--model", help="Model of requests of a file that name none"),
            _argument("--duration", help="Their duration in seconds"),
            _argument("--resolution", help="Their resolution, such as 720p"),
            _argument("--aspect-ratio", help="Their aspect ratio, such as 16:9"),
            _argument("--output", choices=("table", "json"), default="table", help="Format (%(default)s)"),
        ),
    ),
    Command(
        name="render",
        help="Make one render without a Dag",
        target=f"{_CLI}.render:render",
        arguments=(
            _argument("prompt", nargs="?", help="Description of the video or image"),
            _argument("-o", "--output", required=True, help="File to write, such as clip.mp4"),
            _argument("--conn-id", help="Airflow connection (seedance_default)"),
            _argument("--model", help="Model name"),
            _argument("--duration", help="Length of the clip in seconds"),
            _argument("--resolution", help="Such as 720p"),
            _argument("--aspect-ratio", help="Such as 16:9"),
            _argument("--image", action="append", help="URL of an input image; can be repeated"),
            _argument("--audio", action="store_true", help="Make a sound track"),
            _argument("--still", action="store_true", help="Make an image instead of a video"),
            _argument(
                "--timeout", type=float, default=3600, help="Seconds to wait for the end (%(default)s)"
            ),
            _argument("--poll-interval", type=float, help="Seconds between status requests"),
            _argument("--generation-id", help="Fetch this generation instead of submitting one"),
        ),
    ),
)


def get_seedance_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow's command line."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    return [
        GroupCommand(
            name="seedance",
            help="Generate videos and images with ByteDance Seedance and Seedream",
            subcommands=[
                ActionCommand(
                    name=command.name,
                    help=command.help,
                    func=command,
                    args=[
                        Arg(argument.flags, **argument.options)  # type: ignore[no-untyped-call]
                        for argument in command.arguments
                    ],
                )
                for command in COMMANDS
            ],
        )
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line, the same on every version of Airflow."""
    parser = argparse.ArgumentParser(prog="airflow seedance", description=__doc__.split("\n\n")[0].strip())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        for argument in command.arguments:
            sub.add_argument(*argument.flags, **argument.options)
        sub.set_defaults(func=command)
    args = parser.parse_args(argv)
    args.func(args)
