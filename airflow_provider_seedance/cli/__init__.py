"""
The command line: ``airflow seedance …`` (Airflow 3.2 and later) and ``python -m airflow_provider_seedance …``.

Airflow's parser and our own are created from :data:`COMMANDS`. Airflow loads this module at every ``airflow``
command, so it imports each command on use only.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


class Argument:
    """
    Flags of an argument, and the keyword arguments of ``argparse``'s ``add_argument``.

    :param group: Title above it in the help text.
    """

    def __init__(self, *flags: str, group: str | None = None, **options: Any) -> None:
        self.flags = flags
        self.group = group
        self.options = options


@dataclass(frozen=True, kw_only=True)
class Command:
    """
    A command.

    :param target: Its implementation, as ``module:function``.
    :param derived: Function that returns its arguments, as ``module:function``, where they are derived from code that
        is not loaded for other commands.
    """

    name: str
    help: str
    target: str
    arguments: tuple[Argument, ...] = ()
    derived: str | None = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to a parser, in their order."""
        groups: dict[str | None, Any] = {None: parser}
        for argument in _load(self.derived)() if self.derived else self.arguments:
            if argument.group not in groups:
                groups[argument.group] = parser.add_argument_group(argument.group)
            groups[argument.group].add_argument(*argument.flags, **argument.options)
        # argparse leaves unknown options to the parser of all commands, whose help does not list the options of this one.
        setattr(parser, "parse_known_args", partial(_parse_all, parser, parser.parse_known_args))  # noqa: B010

    def __call__(self, args: argparse.Namespace) -> None:
        """Run the command and exit with its exit code."""
        try:
            code = _load(self.target)(args)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the output has ended. Without this, Python would report it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        if code:
            sys.exit(code)


def _parse_all(parser: argparse.ArgumentParser, parse: Any, args: Any = None, namespace: Any = None) -> Any:
    """Parse the arguments of a command; an unknown one is an error of its parser."""
    namespace, unknown = parse(args, namespace)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        options = [item for item in unknown if item.startswith("--")]
        meant = difflib.get_close_matches("".join(options[:1]), flags, n=1)
        question = f" (did you mean {meant[0]}?)" if meant else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{question}")
    return namespace, unknown


def _load(target: str) -> Any:
    module, function = target.split(":")
    return getattr(import_module(module), function)


_CLI = "airflow_provider_seedance.cli"

CONN_ID = Argument("--conn-id", help="Airflow connection (default: the environment's, or seedance_default)")
TIMEOUT = Argument("--timeout", type=float, default=3600, help="Seconds to wait for the end (%(default)s)")
POLL_INTERVAL = Argument("--poll-interval", type=float, help="Seconds between polls (default: adaptive)")
QUIET = Argument("--quiet", action="store_true", help="Print the result and errors only, no progress")


def output_format(*names: str) -> Argument:
    """Return the option that chooses the format of the result, the first one by default."""
    return Argument("--output", choices=names, default=names[0], help="Format of the result (%(default)s)")


#: Of the commands about generations by their ids.
_GENERATIONS = (
    Argument("generation_ids", nargs="+", metavar="GENERATION_ID", help="Id of a generation at the service"),
    Argument("--still", action="store_true", help="The generations are images instead of videos"),
    output_format("text", "json"),
)

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
            Argument("--strict", action="store_true", help="Reply only as the documents of a service say"),
        ),
    ),
    Command(
        name="estimate",
        help="Estimate the cost of a file of requests, or of a Dag over a range of dates; sends nothing",
        target=f"{_CLI}.estimate:estimate_command",
        arguments=(
            Argument("requests", nargs="?", help="JSONL or CSV file of requests, local or s3://…"),
            Argument("--dag", help="Dag id, instead of a file of requests"),
            Argument("--file", help="Python file of the Dag (default: search all Dag bundles)"),
            Argument("--from", dest="since", help="First date of a backfill of the Dag, such as 2026-01-01"),
            Argument("--to", dest="until", help="Last date of the backfill, included"),
            Argument("--conn-id", help="Airflow connection (default: seedance_default, or the tasks' own)"),
            Argument("--api", help="Service, instead of a connection: an estimate needs no key"),
            Argument("--model", help="Model of the requests in the file that name none"),
            Argument("--duration", help="Seconds of the clips of requests in the file that name none"),
            Argument("--resolution", help="Resolution of requests in the file that name none, such as 720p"),
            Argument("--aspect-ratio", help="Aspect ratio, such as 16:9, of requests that name none"),
            output_format("table", "json"),
        ),
    ),
    Command(
        name="render",
        help="Make one render without a Dag",
        target=f"{_CLI}.render:render",
        derived=f"{_CLI}.render_options:render_options",
    ),
    Command(
        name="status",
        help="Show generations as the service reports them now",
        target=f"{_CLI}.generation_commands:status",
        arguments=(*_GENERATIONS, CONN_ID),
    ),
    Command(
        name="wait",
        help="Wait until generations have ended; downloads nothing",
        target=f"{_CLI}.generation_commands:wait",
        arguments=(*_GENERATIONS, QUIET, TIMEOUT, POLL_INTERVAL, CONN_ID),
    ),
    Command(
        name="cancel",
        help="Cancel generations where the service can and they have not started",
        target=f"{_CLI}.generation_commands:cancel",
        arguments=(*_GENERATIONS, CONN_ID),
    ),
    Command(
        name="list",
        help="List the latest generations: of the account (ark), or of the connection in the ledger",
        target=f"{_CLI}.generation_commands:list_generations",
        arguments=(
            Argument("--limit", type=int, default=20, help="Number of generations (%(default)s)"),
            output_format("text", "json"),
            CONN_ID,
        ),
    ),
)


_OUTPUT = output_format("table", "json", "csv")
_STATES = ("intent", "uncertain", "submitted", "ended", "not_submitted")

#: Commands below ``airflow seedance ledger``.
LEDGER_COMMANDS = (
    Command(
        name="spend",
        help="Show what was spent, by day, Dag, task, model, connection or namespace",
        target=f"{_CLI}.ledger_commands:spend",
        arguments=(
            Argument("--from", dest="since", help="First date of the submissions, such as 2026-01-01"),
            Argument("--to", dest="until", help="Last date of the submissions, included"),
            Argument(
                "--by",
                choices=("day", "dag", "task", "model", "connection", "namespace"),
                default="day",
                help="Column to sum by (%(default)s)",
            ),
            _OUTPUT,
        ),
    ),
    Command(
        name="list",
        help="List submissions, the latest first",
        target=f"{_CLI}.ledger_commands:list_submissions",
        arguments=(
            Argument("--state", choices=_STATES, help="State of the submissions"),
            Argument("--dag", help="Id of the Dag that submitted"),
            Argument("--run", help="Id of the Dag run that submitted"),
            Argument("--since", help="Oldest submission: an age such as 12h or 90d, or a date"),
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
            Argument("dag", help="Id of the Dag"),
            Argument("run", help="Id of the Dag run"),
            Argument("task", help="Id of the task"),
            Argument("--map-index", type=int, default=-1, help="Map index of a mapped task"),
            Argument("--loop-index", type=int, default=-1, help="Pass of a task loop"),
            Argument("--key", help="Key of an item of a batch"),
            Argument("--generation-id", help="Id of the generation that was billed"),
            Argument("--not-billed", action="store_true", help="Record that nothing was billed"),
        ),
    ),
    Command(
        name="reconcile",
        help="Compare the ledger with the videos that the service lists (ark); changes nothing",
        target=f"{_CLI}.ledger_commands:reconcile",
        arguments=(
            CONN_ID,
            Argument("--since", default="1d", help="Oldest video: an age up to 7d, or a date (%(default)s)"),
            Argument("--limit", type=int, default=2000, help="Number of videos that are read (%(default)s)"),
            _OUTPUT,
        ),
    ),
    Command(
        name="prune",
        help="Delete submissions that have ended; keeps what is in flight or uncertain",
        target=f"{_CLI}.ledger_commands:prune",
        arguments=(
            Argument("--older-than", required=True, help="Age of what is deleted, such as 90d, or a date"),
            Argument("--yes", action="store_true", help="Delete without a confirmation, as in a script"),
        ),
    ),
    Command(
        name="export", help="Print all submissions as JSON lines", target=f"{_CLI}.ledger_commands:export"
    ),
)

_HELP = "Generate videos and images with ByteDance Seedance and Seedream"
_LEDGER_HELP = "Look up what was submitted and spent, and settle uncertain submissions"


def get_seedance_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow's command line, which has loaded what is imported here."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand

    def actions(commands: Sequence[Command]) -> list[ActionCommand | GroupCommand]:
        # One `Arg` that adds all arguments: Airflow would sort them by their names.
        return [
            ActionCommand(
                name=command.name,
                help=command.help,
                func=command,
                args=[SimpleNamespace(flags=(command.name,), add_to_parser=command.add_to)],  # type: ignore[list-item]
            )
            for command in commands
        ]

    return [
        GroupCommand(
            name="seedance",
            help=_HELP,
            subcommands=[
                *actions(COMMANDS),
                GroupCommand(name="ledger", help=_LEDGER_HELP, subcommands=actions(LEDGER_COMMANDS)),
            ],
        )
    ]


class _Parser(argparse.ArgumentParser):
    """
    Parser that prints its help after a mistake or without a command, as Airflow's does.

    :param command: Its command, whose arguments are added on use.
    """

    def __init__(self, *, command: Command | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        command, self._command = self._command, None
        if command:
            command.add_to(self)
            self.set_defaults(func=command)
            return self.parse_known_args(args, namespace)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}, see the help above.\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line, the same on every version of Airflow."""
    parser = _Parser(prog="airflow seedance", description=_HELP)
    commands = _add_commands(parser, COMMANDS)
    _add_commands(commands.add_parser("ledger", help=_LEDGER_HELP, description=_LEDGER_HELP), LEDGER_COMMANDS)
    args = parser.parse_args(argv)
    args.func(args)


def _add_commands(parser: argparse.ArgumentParser, added: Sequence[Command]) -> Any:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in added:
        commands.add_parser(command.name, help=command.help, description=command.help, command=command)
    return commands
