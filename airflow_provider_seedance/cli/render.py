"""``airflow seedance render``: one render without a Dag, from prompt to file."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.apis.validation import Prepared
from airflow_provider_seedance.cli.connection import open_hook
from airflow_provider_seedance.cli.interrupts import interruptible
from airflow_provider_seedance.cli.render_options import media_of, request_of
from airflow_provider_seedance.cli.result_stream import result_stream
from airflow_provider_seedance.cli.waiting import say_to_stderr, wait_with_progress
from airflow_provider_seedance.client.flows import LOCAL_PREFIX
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.submission.preflight import check_price_known
from airflow_provider_seedance.transfers.download import download
from airflow_provider_seedance.transfers.output import UrlRefresher
from airflow_provider_seedance.version_compat import COMMAND_WORDS


class _File(TypedDict):
    """A file that was written."""

    path: str
    bytes: int
    sha256: str


@dataclass
class _RenderState:
    """
    Progress of the command, which determines how to recover the render after an error.

    :param sent: Whether a submission may have been sent.
    :param confirmed: Whether the service has accepted or reported the generation.
    :param generation_id: The generation, once it is known.
    :param submitted: The generation as it was read first.
    :param ended: The terminal state of the generation, once it is known.
    """

    sent: bool = False
    confirmed: bool = False
    generation_id: str | None = None
    submitted: generations.Generation | None = None
    ended: generations.Generation | None = None

    @property
    def is_local(self) -> bool:
        """Generation with outputs that the service keeps no record of."""
        return bool(self.ended and self.ended.urls and self.ended.generation_id.startswith(LOCAL_PREFIX))


def render(args: argparse.Namespace) -> int:
    """Make one render and return the exit code."""
    # Log lines would break the progress bar.
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    state = _RenderState(generation_id=args.generation_id)
    with result_stream() as result:
        try:
            with interruptible():
                generation, files = _run(args, state)
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            _print_recovery(state, args)
            return 130
        except errors.SeedanceError as error:
            print(f"\n{error}", file=sys.stderr)
            state.sent = False  # the message of the error contains the outcome of the submission
            state.generation_id = state.generation_id or error.generation_id
            final = error.scope == "item" or not (state.confirmed or error.retry_helps)
            if not final or state.is_local:
                _print_recovery(state, args)
            return 1
        except Exception:
            # The recovery command is printed last, after the traceback.
            traceback.print_exc()
            _print_recovery(state, args)
            return 1
        print(_json(generation, files) if args.output == "json" else _text(generation, files), file=result)
    return 0


def _run(args: argparse.Namespace, state: _RenderState) -> tuple[generations.Generation, list[_File]]:
    request = None if args.generation_id else _request(args)
    _check_writable(_requested_paths(args.file, request), force=args.force)
    hook = open_hook(args.conn_id)
    if request:
        _submit(hook, request, args, state)
    else:
        _look_up(hook, media_of(args), state, args.generation_id)
    generation = _wait(hook, args, state)
    return generation, _download(hook, generation, args)


def _text(generation: generations.Generation, files: Sequence[_File]) -> str:
    lines = [f"{file['path']}: {file['bytes']:,} bytes, sha256 {file['sha256']}" for file in files]
    return "\n".join([generation.summary(), *lines])


def _json(generation: generations.Generation, files: Sequence[_File]) -> str:
    return json.dumps({**generation.result(), "files": files}, indent=2)


def _paths(file: str, count: int, *, last_frame: bool) -> list[Path]:
    """Return the paths of the outputs, of which the last one may be the last frame: a JPEG."""
    path = Path(file).expanduser().absolute()
    names = [path.name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, count + 1))]
    if last_frame:
        names[-1] = f"{path.stem}-last-frame.jpg"
    return [path.with_name(name) for name in names]


def _requested_paths(file: str, request: generations.GenerationRequest | None) -> list[Path]:
    count, last_frame = (getattr(request, name, None) for name in ("num_images", "return_last_frame"))
    return _paths(file, (count or 1) + bool(last_frame), last_frame=bool(last_frame))


def _check_writable(paths: Sequence[Path], *, force: bool, note: str = " Nothing was sent.") -> None:
    """Check that the files can be written, before anything is billed."""
    for path in paths:
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise errors.SeedanceConfigurationError(
                f"{path} cannot be written: it must be a file in an existing directory.{note}"
            )
        if path.exists() and not force:
            raise errors.SeedanceConfigurationError(
                f"{path} exists.{note} Choose another file, or overwrite this one with --force."
            )


def _request(args: argparse.Namespace) -> generations.GenerationRequest:
    if not args.prompt:
        raise errors.SeedanceRequestError("A render needs a prompt (or --generation-id). Nothing was sent.")
    return request_of(args)


def _submit(
    hook: SeedanceHook, request: generations.GenerationRequest, args: argparse.Namespace, state: _RenderState
) -> None:
    prepared = hook.prepare(request)
    _check_limits(hook, prepared, args)
    say = say_to_stderr(quiet=args.quiet)
    for line in (*hook.settings.warnings, *prepared.defaults, *prepared.warnings):
        say(line)
    if hook.settings.budgets:
        print("The budgets of the connection limit tasks, not this command.", file=sys.stderr)
    say(f"Submitting to {hook.settings.api.title}: {price_text(prepared.price)} …")
    state.sent = True
    generation = hook.submit_prepared(prepared)
    state.generation_id, state.confirmed, state.submitted = generation.generation_id, True, generation
    if generation.status.terminal:
        state.ended = generation
    say(f"Generation {generation.generation_id} is billed from now on.")


def _check_limits(hook: SeedanceHook, prepared: Prepared, args: argparse.Namespace) -> None:
    given = {unit: getattr(args, name) for unit, name in generations.MAX_ARGUMENTS.items()}
    limits = {unit: limit for unit, limit in given.items() if limit is not None}
    check_price_known(hook.settings.api, prepared, limits)
    for unit, limit in limits.items():
        price = getattr(prepared.result_defaults, unit)
        if not price <= limit:  # refuses a limit of NaN, too
            option = f"--{generations.MAX_ARGUMENTS[unit].replace('_', '-')}"
            raise errors.SeedanceMaxCreditsError(
                f"The request costs {generations.amount(unit, price)}, more than {option}={limit:g}. Nothing was sent."
            )


def _look_up(hook: SeedanceHook, media: generations.Media, state: _RenderState, generation_id: str) -> None:
    """Read a generation that was named: unlike one just submitted, it is not known late but unknown."""
    state.submitted = hook.get_generation(generation_id, media)
    state.confirmed = True
    if state.submitted.status.terminal:
        state.ended = state.submitted


def _wait(hook: SeedanceHook, args: argparse.Namespace, state: _RenderState) -> generations.Generation:
    if state.ended is None:
        assert state.submitted is not None
        state.ended = wait_with_progress(hook, state.submitted, args)
    return raise_unless_succeeded(state.ended)


def _download(
    hook: SeedanceHook, generation: generations.Generation, args: argparse.Namespace
) -> list[_File]:
    paths = _paths(args.file, len(generation.urls), last_frame=generation.last_frame_url in generation.urls)
    _check_writable(paths, force=args.force, note="")
    urls, files = UrlRefresher(generation, [hook]), []
    columns = (TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        Progress(*columns, console=Console(stderr=True), disable=args.quiet) as bar,
        MediaClient(hook.settings) as client,
    ):
        for index, path in enumerate(paths, start=1):
            location = StorageLocation.of(path.as_uri(), None)
            with open_writer(location, exclusive=not args.force) as writer:
                task = bar.add_task("download", total=None)
                done = download(
                    client,
                    urls.source(index),
                    lambda _, writer=writer: writer,  # type: ignore[misc]
                    progress=partial(_show_download, bar, task),
                )
                assert done is not None
                writer.commit()
            files.append(_File(path=str(path), bytes=done.size, sha256=done.sha256))
    return files


def _show_download(bar: Progress, task: TaskID, received: int, total: int | None) -> None:
    bar.update(task, completed=received, total=total)


def _print_recovery(state: _RenderState, args: argparse.Namespace) -> None:
    """Print how to get a generation that is billed, or may be, to standard error."""
    if state.generation_id is None:
        if state.sent:
            print(
                "The command ended during the submission: a generation may have been billed. Look for it in the "
                "console of the service before you submit again.",
                file=sys.stderr,
            )
        return
    if state.is_local and state.ended is not None:
        # With their signatures: no status request returns them.
        print(
            f"Generation {state.generation_id} is paid for, and the service keeps no record of it. These are its "
            "outputs; download them before the URLs expire:",
            *(f"  {url}" for url in state.ended.urls),
            sep="\n",
            file=sys.stderr,
        )
        return
    if state.ended is not None and state.ended.status is not generations.GenerationStatus.SUCCEEDED:
        return
    options = ["--conn-id", args.conn_id] if args.conn_id else []
    options += ["--force"] if args.force else []
    print_fetch_command(state.generation_id, args.file, media_of(args), options, confirmed=state.confirmed)


def print_fetch_command(
    generation_id: str,
    output: str,
    media: generations.Media,
    options: Sequence[str] = (),
    *,
    confirmed: bool = True,
) -> None:
    """
    Print the command that fetches a generation to standard error.

    :param confirmed: Whether the service has accepted or reported the generation.
    """
    command = [*COMMAND_WORDS, "render", "--generation-id", generation_id]
    command += [*(["--still"] if media == "image" else []), *options, "-o", output]
    state = "is paid for and not lost" if confirmed else "was not read"
    print(
        f"Generation {generation_id} {state}. Fetch it, without paying again, with:\n  {shlex.join(command)}",
        file=sys.stderr,
    )


def price_text(price: generations.Estimate) -> str:
    """Return a price as text."""
    return generations.cost_text(price.credits, price.cost_usd) or "its price is not known"
