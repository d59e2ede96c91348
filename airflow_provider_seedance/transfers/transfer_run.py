"""
The run of a transfer task: all outputs of all generations, a few at a time, each independent of the others.

Nothing about earlier transfers is remembered: a file is left as it is when the destination itself shows that it
is the output: by the hash of its item, by the length that the media host announces, or by its time.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.apis.registry import SERVICES, get_api
from airflow_provider_seedance.client.media_client import MediaClient
from airflow_provider_seedance.generations import Generation, counted, read_number
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.ledger import record_stored_files
from airflow_provider_seedance.policies.connection_list import connection_ids
from airflow_provider_seedance.storage.location import RETRY_IS_FREE, StorageLocation, exists_error
from airflow_provider_seedance.submission.decisions import listed
from airflow_provider_seedance.transfers.file_names import Naming, distinct, folded
from airflow_provider_seedance.transfers.inputs import (
    TransferInput,
    TransferItem,
    read_destination,
    read_flag,
    read_input,
    read_overwrite,
    shorten,
)
from airflow_provider_seedance.transfers.output import (
    Output,
    OutputTransfer,
    Stored,
    TransferOptions,
    UrlRefresher,
    display_media_url,
    megabytes,
)
from airflow_provider_seedance.transfers.verification import read_verify, requested

log = logging.getLogger(__name__)

#: Seconds between two lines of progress in the log.
PROGRESS_INTERVAL_SECONDS = 10.0

MAX_KEY_CHARS = 80
MAX_REASON_CHARS = 300

#: Limit of paths and generation ids in the event of an asset, which the database keeps.
MAX_PATHS_IN_EVENT = 100


def run(
    *,
    generation: Any,
    destination: Any,
    name_template: str | None,
    max_parallel: int,
    seedance_conn_id: Any,
    object_storage_conn_id: str | None,
    overwrite: Any,
    verify: Any,
    sidecar: Any,
    is_retry: bool,
    stop: threading.Event,
) -> tuple[dict[str, Any], dict[str, Any], tuple[Generation, ...]]:
    """
    Store everything, then return the result, the extra of the asset events, and the generations.

    The arguments are those of the operator, rendered.

    :param is_retry: An earlier try of the task may have stored some of the files.
    :param stop: Ends the transfer when set.
    :raises SeedanceRequestError: there is nothing to transfer; nothing was sent.
    :raises SeedanceConfigurationError: the arguments cannot be used; nothing was sent.
    :raises SeedanceDestinationExistsError: a file exists that may not be replaced.
    :raises SeedanceMediaError: some could not be stored; the others are.
    :raises SeedanceMediaRejectedError: all are stored, and some are not what was requested.
    """
    mode, look, beside = read_overwrite(overwrite), read_verify(verify), read_flag("sidecar", sidecar)
    common = {"overwrite": mode, "is_retry": is_retry, "stop": stop, "verify": look, "sidecar": beside}
    given = read_input(generation)
    template = None if name_template in (None, "", "None") else name_template
    location, outputs = _plan(given, destination, object_storage_conn_id or None, template)
    if given.left_out:
        log.warning("%s without an output: failed, or not submitted.", counted(given.left_out, "item"))
    if not outputs and not given.broken:
        log.warning("No item of the batch has succeeded: there is nothing to store.")
    with ExitStack() as clients:
        options = [_options(conn_id, clients, common) for conn_id in connection_ids(seedance_conn_id)]
        stored = TransferRun(outputs, given.broken, options).run(max_parallel)
    problems = [] if look is None else [*_missing_outputs(given), *_problems(stored)]
    if problems and look == "fail":
        raise _rejected(problems, given)
    outcome = _result(given, outputs, stored, problems, f"{location.display.rstrip('/')}/")
    record_stored_files(outcome[2], outcome[0], object_storage_conn_id)
    return outcome


def _options(conn_id: str, clients: ExitStack, common: Mapping[str, Any]) -> TransferOptions:
    hook = SeedanceHook(conn_id)
    return TransferOptions(hook=hook, client=clients.enter_context(MediaClient(hook.settings)), **common)


def _plan(
    given: TransferInput, destination: Any, conn_id: str | None, template: str | None
) -> tuple[StorageLocation, list[Output]]:
    single_file = given.single and len(given.items[0].generation.urls) == 1
    location, is_directory = read_destination(
        destination, conn_id, single_file=single_file, name_template=template
    )
    if not is_directory:
        return location, [Output(item=given.items[0], index=1, destination=location, naming=None)]
    default = "{generation_id}.{ext}" if given.single else "{key}.{ext}"
    return location, plan_outputs(given.items, location, template or default)


def plan_outputs(items: Sequence[TransferItem], directory: StorageLocation, template: str) -> list[Output]:
    """
    Name every output in a directory.

    :raises SeedanceConfigurationError: two names differ in the case of letters at most, which some stores ignore.
    """
    outputs: list[Output] = []
    keys_by_name: dict[str, str] = {}
    keys = distinct(item.key for item in items)
    for item in items:
        generation = item.generation
        values = {
            "generation_id": generation.generation_id,
            "media": generation.media,
            "model": generation.model,
            "key": keys[item.key],
        }
        naming = Naming(template=template, count=len(generation.urls), values=values)
        for index in range(1, len(generation.urls) + 1):
            # The type of a file may not be known yet, so names must differ in something else.
            name = naming.name(index, "ext")
            if folded(name) in keys_by_name:
                keys_of_both = (shorten(key, MAX_KEY_CHARS) for key in (keys_by_name[folded(name)], item.key))
                raise errors.SeedanceConfigurationError(
                    f"{' and '.join(map(repr, keys_of_both))} would both be stored as {name!r}: give name_template a "
                    "placeholder that tells them apart, such as {generation_id} or {index}. Nothing was sent."
                )
            keys_by_name[folded(name)] = item.key
            outputs.append(Output(item=item, index=index, destination=directory, naming=naming))
    return outputs


class TransferRun:
    """
    Run that stores the outputs of one task.

    :param broken: Keys of items that cannot be transferred, with the reason.
    :param options: Those of each connection, in order; a generation belongs to the ones of its service.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        broken: Sequence[tuple[str, errors.SeedanceError]],
        options: Sequence[TransferOptions],
    ) -> None:
        self._broken = broken
        self._options = options[0]
        self._count = len(outputs) + len(broken)
        urls: dict[str, UrlRefresher] = {}
        self._transfers: list[OutputTransfer] = []
        for output in outputs:
            generation = output.generation
            own = [one for one in options if one.hook.settings.api.name == generation.api] or options
            refresher = UrlRefresher(generation, [one.hook for one in own])
            refresher = urls.setdefault(generation.generation_id, refresher)
            self._transfers.append(OutputTransfer(output, refresher, own[0]))

    def run(self, max_parallel: int) -> list[Stored]:
        """Store every output and return them in order; see :func:`run`."""
        futures: list[Future[Stored]] = []
        # None begins before all are started: the pool does not wait for a thread whose start a timeout has interrupted.
        # Not an event: a timeout within its `set` leaves it locked.
        stop, begin = self._options.stop, SimpleQueue[None]()
        # Not a `with` block: it would wait for downloads that the stop below is to end.
        pool = ThreadPoolExecutor(max_parallel, thread_name_prefix="seedance-transfer")
        try:
            if self._options.overwrite == "no" and not self._options.is_retry:
                self._refuse_existing(pool)
            futures = [pool.submit(self._store, transfer, begin) for transfer in self._transfers]
            begin.put(None)
            while wait(futures, timeout=PROGRESS_INTERVAL_SECONDS).not_done:
                self._log_progress(futures)
            stopped = stop.is_set()
        finally:
            stop.set()
            begin.put(None)
            pool.shutdown(wait=True, cancel_futures=True)
        stored, failures = self._outcomes(futures)
        if self._count > 1:
            self._log_progress(futures)
        if stopped and len(stored) < self._count:
            raise errors.SeedanceMediaError(
                f"The task was stopped when {len(stored)} of {self._count} files were stored, which stay. {RETRY_IS_FREE}"
            )
        if failures:
            raise _error_of(failures, self._count)
        return stored

    def _store(self, transfer: OutputTransfer, begin: SimpleQueue[None]) -> Stored:
        begin.put(begin.get())
        try:
            if self._options.stop.is_set():
                raise errors.SeedanceMediaError(f"The task was stopped. {RETRY_IS_FREE}")
            return transfer.run()
        except Exception as error:
            if not self._options.stop.is_set():
                log.warning(
                    "%s could not be stored: %s", shorten(transfer.output.item.key, MAX_KEY_CHARS), error
                )
            raise

    def _outcomes(
        self, futures: Sequence[Future[Stored]]
    ) -> tuple[list[Stored], list[tuple[str, Exception]]]:
        stored: list[Stored] = []
        failures: list[tuple[str, Exception]] = list(self._broken)
        for transfer, future in zip(self._transfers, futures, strict=True):
            try:
                stored.append(future.result())
            except Exception as error:
                failures.append((transfer.output.item.key, error))
        return stored, failures

    def _refuse_existing(self, pool: ThreadPoolExecutor) -> None:
        places = [place for each in self._transfers if (place := each.output.location()) is not None]
        exists = pool.map(lambda place: place.stat() is not None, places)
        found = [place.display for place, there in zip(places, exists, strict=True) if there]
        if found:
            raise exists_error(listed(found))

    def _log_progress(self, futures: Sequence[Future[Stored]]) -> None:
        done = [future for future in futures if future.done() and not future.cancelled()]
        counts = Counter(future.result().verified_by for future in done if future.exception() is None)
        log.info(
            "%d of %s done: %d stored, %d left as they are (%d by hash, %d by length, %d by time), %d failed. "
            "%s downloaded.",
            len(done) + len(self._broken),
            counted(self._count, "file"),
            counts["download"],
            counts.total() - counts["download"],
            *(counts[verified_by] for verified_by in ("hash", "size", "time")),
            len(done) + len(self._broken) - counts.total(),
            megabytes(sum(transfer.received for transfer in self._transfers)),
        )


def _problems(stored: Sequence[Stored]) -> list[str]:
    return [f"{one.path}: {problem}" for one in stored for problem in one.findings.problems]


def _missing_outputs(given: TransferInput) -> list[str]:
    found = []
    for item in given.items:
        generation = item.generation
        wanted, count = read_number(requested(generation, "num_images")), len(generation.urls)
        reason = generation.error_message
        is_maximum = generation.api in SERVICES and get_api(generation.api).makes_groups
        if wanted is not None and count < wanted and (reason or not is_maximum):
            number = f"{count} of {wanted:g} images" + (f" ({reason})" if reason else "")
            found.append(f"generation {generation.generation_id}: it has {number}")
            log.warning("Generation %s has %s.", generation.generation_id, number)
    return found


def _rejected(problems: Sequence[str], given: TransferInput) -> errors.SeedanceMediaRejectedError:
    return errors.SeedanceMediaRejectedError(
        f'verify="fail": {listed(problems, "; ")}. The files are kept, and the renders were billed. A retry cannot '
        'help. To accept the files, set verify="warn" and clear this task, which pays nothing; to pay for new '
        'renders, clear the generating task with on_clear="new".',
        generation_id=given.items[0].generation.generation_id if given.single else None,
    )


def _result(
    given: TransferInput,
    outputs: Sequence[Output],
    stored: Sequence[Stored],
    problems: list[str],
    directory: str,
) -> tuple[dict[str, Any], dict[str, Any], tuple[Generation, ...]]:
    generations = tuple(item.generation for item in given.items)
    paths = [one.path for one in stored]
    result: dict[str, Any] = {
        "path": paths[0] if given.single else directory,
        "paths": paths,
        "bytes": sum(one.size for one in stored),
        "sha256": [one.sha256 for one in stored],
        "generation_id": generations[0].generation_id if given.single else None,
        "problems": problems,
    }
    extra = {name: result[name] for name in ("path", "generation_id")}
    if given.single:
        extra["url"] = display_media_url(generations[0].urls[0])
        return result, extra, generations
    skipped = sum(one.verified_by != "download" for one in stored)
    result |= {
        "generation_ids": [output.generation.generation_id for output in outputs],
        "stored": len(stored) - skipped,
        "skipped": skipped,
    }
    extra |= {name: result[name] for name in ("stored", "skipped", "bytes")}
    extra |= {name: result[name][:MAX_PATHS_IN_EVENT] for name in ("paths", "generation_ids")}
    extra |= {"url": directory, "files": len(paths)}
    return result, extra, generations


def _error_of(failures: Sequence[tuple[str, Exception]], count: int) -> Exception:
    """
    Return the error of a task of which some files could not be stored.

    It has the type of an error that a retry can cure, if there is one: a retry saves the others before they expire.
    """
    ordered = sorted(failures, key=lambda failure: not getattr(failure[1], "retry_helps", True))
    first = ordered[0][1]
    if count == 1:
        return first
    curable = sum(bool(getattr(error, "retry_helps", True)) for _, error in failures)
    named = listed([f"{shorten(key, MAX_KEY_CHARS)} ({_reason(error)})" for key, error in ordered], "; ")
    advice = (
        f"A retry goes on with the failed files and pays nothing; it may help {curable} of them."
        if curable
        else "A retry cannot help any of them; nothing was paid."
    )
    message = (
        f"{len(failures)} of {count} files could not be stored: {named}. {count - len(failures)} are "
        f"stored and stay. {advice} The renders are paid for; the log has the reason for each file."
    )
    ids = {getattr(error, "generation_id", None) for _, error in failures}
    error = (
        type(first)(message, **{**first.details(), "generation_id": ids.pop() if len(ids) == 1 else None})
        if isinstance(first, errors.SeedanceError)
        else errors.SeedanceMediaError(message)
    )
    error.__cause__ = first
    return error


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, errors.SeedanceError) else f"{type(error).__name__}: {error}"
    return shorten(text.removesuffix(RETRY_IS_FREE).strip().rstrip("."), MAX_REASON_CHARS)
