"""``airflow seedance render``: one render without a Dag, from prompt to file."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance import generations
from airflow_provider_seedance.cli.connection import open_hook
from airflow_provider_seedance.cli.interrupts import interruptible
from airflow_provider_seedance.client.flows import LOCAL_PREFIX
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.transfers.download import download
from airflow_provider_seedance.transfers.output import UrlRefresher


@dataclass
class _RenderState:
    """
    Progress of the command, which determines how to recover the render after an error.

    :param sent: Whether a submission may have been sent.
    :param confirmed: Whether the service has accepted or reported the generation.
    :param generation_id: The generation, once it is known.
    :param ended: The terminal state of the generation, once it is known.
    """

    sent: bool = False
    confirmed: bool = False
    generation_id: str | None = None
    ended: generations.Generation | None = None

    @property
    def is_local(self) -> bool:
        """Generation with outputs that the service keeps no record of."""
        return bool(self.ended and self.ended.urls and self.ended.generation_id.startswith(LOCAL_PREFIX))


def render(args: argparse.Namespace) -> int:
    """Make one render and return the exit code."""
    # Log lines would break the progress bar.
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    media: generations.Media = "image" if args.still else "video"
    state = _RenderState(generation_id=args.generation_id)
    try:
        with interruptible():
            output = _writable(args.output, force=args.force)
            hook = open_hook(args.conn_id)
            if state.generation_id is None:
                _submit(hook, args, state)
            else:
                _look_up(hook, media, state, state.generation_id)
            generation = _wait(hook, media, args, state)
            size, sha256 = _download(hook, generation, output)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        _print_recovery(state, args)
        return 130
    except errors.SeedanceError as error:
        print(f"\n{error}", file=sys.stderr)
        state.sent = False  # the message of the error contains the outcome of the submission
        state.generation_id = state.generation_id or error.generation_id
        if error.scope != "item" or state.is_local:
            _print_recovery(state, args)
        return 1
    except Exception:
        # The recovery command is printed last, after the traceback.
        traceback.print_exc()
        _print_recovery(state, args)
        return 1
    print(generation.summary())
    print(f"{output}: {size:,} bytes, sha256 {sha256}")
    return 0


def _writable(output: str, *, force: bool) -> Path:
    """Check that the file can be written, before anything is billed."""
    path = Path(output).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise errors.SeedanceConfigurationError(
            f"{path} cannot be written: it must be a file in an existing directory. Nothing was sent."
        )
    if path.exists() and not force:
        raise errors.SeedanceConfigurationError(
            f"{path} exists. Nothing was sent. Choose another file, or overwrite this one with --force."
        )
    return path


def _request(args: argparse.Namespace) -> generations.GenerationRequest:
    if not args.prompt:
        raise errors.SeedanceRequestError("A render needs a prompt (or --generation-id). Nothing was sent.")
    common: dict[str, Any] = {
        "prompt": args.prompt,
        "model": args.model,
        "resolution": args.resolution,
        "images": args.image,
        "watermark": args.watermark,
    }
    if args.still:
        return generations.ImageRequest(**common)
    return generations.VideoRequest(
        **common,
        duration=args.duration,
        aspect_ratio=args.aspect_ratio,
        generate_audio=args.audio or None,
        draft=args.draft or None,
        service_tier=args.service_tier,
    )


def _submit(hook: SeedanceHook, args: argparse.Namespace, state: _RenderState) -> None:
    request = _request(args)
    prepared = hook.prepare(request)
    for line in (*prepared.defaults, *prepared.warnings):
        print(line, file=sys.stderr)
    price = price_text(prepared.price)
    print(f"Submitting to {hook.settings.api.title}: {price} …", file=sys.stderr, flush=True)
    state.sent = True
    generation = hook.submit(request)
    state.generation_id, state.confirmed = generation.generation_id, True
    if generation.status.terminal:
        state.ended = generation
    print(f"Generation {generation.generation_id} is billed from now on.", file=sys.stderr, flush=True)


def _look_up(hook: SeedanceHook, media: generations.Media, state: _RenderState, generation_id: str) -> None:
    """Read a generation that was named: unlike one just submitted, it is not known late but unknown."""
    reading = hook.get_generation(generation_id, media)
    state.confirmed = True
    if reading.status.terminal:
        state.ended = reading


def _wait(
    hook: SeedanceHook, media: generations.Media, args: argparse.Namespace, state: _RenderState
) -> generations.Generation:
    if state.ended is None:
        assert state.generation_id is not None
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("waiting", total=None)
            state.ended = hook.wait_for_end(
                state.generation_id,
                args.timeout,
                media=media,
                poll_interval=args.poll_interval,
                report=lambda reading: _show(bar, task, reading),
            )
    return raise_unless_succeeded(state.ended)


def _show(bar: Progress, task: TaskID, reading: generations.Generation) -> None:
    bar.update(task, description=reading.status.value)
    if reading.status.terminal:
        bar.update(task, total=100, completed=100)
    elif reading.progress is not None:
        bar.update(task, total=100, completed=reading.progress)


def _download(hook: SeedanceHook, generation: generations.Generation, output: Path) -> tuple[int, str]:
    columns = (TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        MediaClient(hook.settings) as client,
        open_writer(StorageLocation.of(output.as_uri(), None), exclusive=False) as writer,
    ):
        task = bar.add_task("download", total=None)
        done = download(
            client,
            UrlRefresher(generation, [hook]).source(1),
            lambda _: writer,
            progress=lambda received, total: bar.update(task, completed=received, total=total),
        )
        writer.commit()
    assert done is not None
    return done.size, done.sha256


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
    media: generations.Media = "image" if args.still else "video"
    print_fetch_command(state.generation_id, args.output, media, options, confirmed=state.confirmed)


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
    command = ["airflow", "seedance", "render", "--generation-id", generation_id]
    command += [*(["--still"] if media == "image" else []), *options, "-o", output]
    state = "is paid for and not lost" if confirmed else "was not read"
    print(
        f"Generation {generation_id} {state}. Fetch it, without paying again, with:\n  {shlex.join(command)}",
        file=sys.stderr,
    )


def price_text(price: generations.Estimate) -> str:
    """Return a price as text."""
    usd = None if price.cost_usd is None else f"${price.cost_usd:g}"
    if price.credits is None:
        return usd or "the service publishes no price"
    return f"{price.credits:g} credits" + (f" ({usd})" if usd else "")
