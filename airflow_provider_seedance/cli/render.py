"""``airflow seedance render``: one render without a Dag, from prompt to file."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.cli.connection import (
    API_VARIABLE,
    KEY_VARIABLE,
    airflows_database,
    connection_from_environment,
)
from airflow_provider_seedance.generations import (
    Estimate,
    Generation,
    GenerationRequest,
    GenerationStatus,
    ImageRequest,
    Media,
    VideoRequest,
    utc_now,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from airflow_provider_seedance.hooks.seedance import SeedanceHook


@dataclass
class _Course:
    """
    How far a render came, which decides what is to be told where it stops.

    :param sent: Whether a submission may have left.
    :param generation_id: The generation, once it is known.
    :param ended: How it ended, once that is known.
    """

    sent: bool = False
    generation_id: str | None = None
    ended: Generation | None = None


def render(args: argparse.Namespace) -> int:
    """Make one render; returns the exit code."""
    # What is worth telling is printed here; the log lines would only tear the progress bar.
    logging.getLogger("airflow_provider_seedance").setLevel(logging.ERROR)
    media: Media = "image" if args.still else "video"
    course = _Course(generation_id=args.generation_id)
    try:
        output = _writable(args.output)
        hook = _hook(args)
        if course.generation_id is None:
            _submit(hook, args, course)
        generation = _wait(hook, media, args, course)
        size, sha256 = _download(hook, generation, output)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        _tell_how_to_go_on(course, args)
        return 130
    except errors.SeedanceError as error:
        print(f"\n{error}", file=sys.stderr)
        course.sent = False  # the error itself tells what became of the submission
        course.generation_id = course.generation_id or error.generation_id
        if error.scope != "item" or _is_local(course):
            _tell_how_to_go_on(course, args)
        return 1
    except Exception:
        # Whatever went wrong, the way to the paid render must stand at the end.
        traceback.print_exc()
        _tell_how_to_go_on(course, args)
        return 1
    print(generation.summary())
    print(f"{output}: {size:,} bytes, sha256 {sha256}")
    return 0


def _writable(output: str) -> Path:
    """Check before anything is paid that the file can be written."""
    path = Path(output).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise errors.SeedanceConfigurationError(
            f"{path} cannot be written: it must be a file in an existing directory. Nothing was sent."
        )
    return path


def _hook(args: argparse.Namespace) -> SeedanceHook:
    from airflow_provider_seedance.hooks.seedance import SeedanceHook

    if args.conn_id is None and (connection := connection_from_environment()):
        os.environ["AIRFLOW_CONN_SEEDANCE_DEFAULT"] = connection
    hook = SeedanceHook(args.conn_id or "seedance_default")
    try:
        with airflows_database():
            hook.settings  # noqa: B018 (read now: an unusable connection is told before anything else)
    except errors.SeedanceError:
        raise
    except Exception as error:
        raise errors.SeedanceConfigurationError(
            f"There is no usable connection {hook.seedance_conn_id!r} ({error}). Create it, or set "
            f"{KEY_VARIABLE} and {API_VARIABLE}. Nothing was sent."
        ) from error
    return hook


def _request(args: argparse.Namespace) -> GenerationRequest:
    if not args.prompt:
        raise errors.SeedanceRequestError("A render needs a prompt (or --generation-id). Nothing was sent.")
    common: dict[str, Any] = {
        "prompt": args.prompt,
        "model": args.model,
        "resolution": args.resolution,
        "images": args.image,
    }
    if args.still:
        return ImageRequest(**common)
    return VideoRequest(
        **common,
        duration=args.duration,
        aspect_ratio=args.aspect_ratio,
        generate_audio=True if args.audio else None,
    )


def _submit(hook: SeedanceHook, args: argparse.Namespace, course: _Course) -> None:
    request = _request(args)
    prepared = hook.prepare(request)
    for line in (*prepared.defaults, *prepared.warnings):
        print(line)
    price = hook.settings.api.price(prepared.request) or Estimate()
    cost = (
        "it publishes no price"
        if price.credits is None
        else f"{price.credits:g} credits, ${price.cost_usd:g}"
    )
    print(f"Submitting to {hook.settings.api.title} ({cost}) …", flush=True)
    course.sent = True
    generation = hook.submit(request)
    course.generation_id = generation.generation_id
    if generation.status.terminal:
        course.ended = generation
    print(f"Generation {generation.generation_id} is billed from now on.", flush=True)


def _wait(hook: SeedanceHook, media: Media, args: argparse.Namespace, course: _Course) -> Generation:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from airflow_provider_seedance.polling.outcomes import raise_unless_succeeded

    if course.ended is None:
        assert course.generation_id is not None
        bar = Progress(TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
        with bar:
            task = bar.add_task("waiting", total=None)
            course.ended = hook.wait_for_end(
                course.generation_id,
                args.timeout,
                media=media,
                poll_interval=args.poll_interval,
                report=lambda reading: _show(bar, task, reading),
            )
    return raise_unless_succeeded(course.ended)


def _show(bar: Progress, task: TaskID, reading: Generation) -> None:
    bar.update(task, description=reading.status.value)
    if reading.status.terminal:
        bar.update(task, total=100, completed=100)
    elif reading.progress is not None:
        bar.update(task, total=100, completed=reading.progress)


def _download(hook: SeedanceHook, generation: Generation, output: Path) -> tuple[int, str]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from airflow_provider_seedance.client.media_client import MediaClient
    from airflow_provider_seedance.storage.location import StorageLocation
    from airflow_provider_seedance.storage.writers import open_writer
    from airflow_provider_seedance.transfers.download import Source, download
    from airflow_provider_seedance.transfers.output import UrlRefresher

    urls = UrlRefresher(generation, hook)
    source = Source(
        label=f"the output of generation {generation.generation_id}",
        generation_id=generation.generation_id,
        url=generation.urls[0],
        refresh=lambda *_: urls.refresh(1),
        stale=urls.stale(utc_now()),
    )
    columns = (TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        Progress(*columns) as bar,
        MediaClient(hook.settings) as client,
        open_writer(StorageLocation.of(output.as_uri(), None), exclusive=False) as writer,
    ):
        task = bar.add_task("download", total=None)
        done = download(
            client,
            source,
            lambda _: writer,
            progress=lambda received, total: bar.update(task, completed=received, total=total),
            now=utc_now,
        )
        writer.commit()
    assert done is not None
    return done.size, done.sha256


def _is_local(course: _Course) -> bool:
    """Whether the generation is known here only, with outputs that no service can be asked for again."""
    from airflow_provider_seedance.client.flows import LOCAL_PREFIX

    return bool(course.ended and course.ended.urls and course.ended.generation_id.startswith(LOCAL_PREFIX))


def _tell_how_to_go_on(course: _Course, args: argparse.Namespace) -> None:
    """Say on the error output how to get at what was paid for, or may have been."""
    if course.generation_id is None:
        if course.sent:
            print(
                "This happened while the request was being submitted: one generation may have been billed. Look "
                "for it in the console of the service before you submit again.",
                file=sys.stderr,
            )
        return
    if _is_local(course) and course.ended is not None:
        # In full, with their signatures: nothing else leads to them.
        print(
            f"Generation {course.generation_id} is paid for, and the service keeps no record of it. These are its "
            "outputs; download them before the URLs expire:",
            *(f"  {url}" for url in course.ended.urls),
            sep="\n",
            file=sys.stderr,
        )
        return
    if course.ended is not None and course.ended.status is not GenerationStatus.SUCCEEDED:
        return
    command = ["airflow", "seedance", "render", "--generation-id", course.generation_id]
    command += ["--still"] if args.still else []
    command += ["--conn-id", args.conn_id] if args.conn_id else []
    command += ["-o", args.output]
    print(
        f"Generation {course.generation_id} is paid for and not lost. Fetch it, without paying again, with:\n"
        f"  {shlex.join(command)}",
        file=sys.stderr,
    )
