"""
Many generations on their way to one directory: a few at a time, each for itself.

What is there already is left as it is, where that can be told: by the hash of the stored file on the
worker's own disk, by what the store says of its version elsewhere, else by its length.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.storage.location import RETRY_IS_FREE
from airflow_provider_seedance.transfers.file_names import Naming, distinct
from airflow_provider_seedance.transfers.inputs import Many, Overwrite, Wanted
from airflow_provider_seedance.transfers.output import FreshUrls, Output, Stored, Transfer, megabytes
from airflow_provider_seedance.transfers.stored_index import RECORD_NAME, StoredFile, StoredRecord

if TYPE_CHECKING:
    from airflow_provider_seedance.client.media_client import MediaClient
    from airflow_provider_seedance.hooks.seedance import SeedanceHook
    from airflow_provider_seedance.storage.location import StorageLocation

log = logging.getLogger(__name__)

#: Seconds between lines of progress, and between writes of the record.
PROGRESS_SECONDS = 10.0

#: So many items are named in an error or in the event of an asset, ...
NAMED = 10
IN_EVENT = 100

#: ... each with so many characters of its key and of its reason.
LONGEST_KEY = 80
LONGEST_REASON = 300

How = Literal["stored", "hash", "version", "size"]


@dataclass(frozen=True)
class _Done:
    """
    One output that is where it belongs.

    :param how: Stored now, or what showed that it was there already.
    :param tag: What the store says of its version.
    """

    output: Output
    wanted: Wanted
    stored: Stored
    how: How
    tag: str | None


@dataclass(frozen=True, kw_only=True)
class Errand:
    """
    What all outputs of a transfer of many have in common.

    :param place: The directory.
    :param by: This task instance and its retries, see :class:`StoredFile`.
    :param again: Whether this is a retry, so that what an earlier try stored is not downloaded again.
    """

    hook: SeedanceHook
    client: MediaClient
    place: StorageLocation
    template: str | None
    overwrite: Overwrite
    max_parallel: int
    stop: threading.Event
    by: str
    again: bool


def outputs_of(many: Many, place: StorageLocation, template: str | None) -> list[tuple[Wanted, Output]]:
    """
    Name every output before anything is sent.

    :raises SeedanceConfigurationError: two would get the same name.
    """
    found: list[tuple[Wanted, Output]] = []
    names: dict[str, str] = {}
    keys = distinct(wanted.key for wanted in many.wanted)
    for wanted in many.wanted:
        generation = wanted.generation
        count = len(generation.urls)
        naming = Naming(
            template=template or "{key}.{ext}",
            count=count,
            values={
                "generation_id": generation.generation_id,
                "media": generation.media,
                "model": generation.model,
                "key": keys[wanted.key],
            },
        )
        naming.check()
        for index, url in enumerate(generation.urls, start=1):
            # The type of a file may not be known yet; names that differ in nothing else are not trusted to differ.
            name = naming.name(index, "ext")
            if name.partition("/")[0] == RECORD_NAME:
                raise _same_name(name, "the record of what is stored", wanted.key)
            if name in names:
                raise _same_name(name, names[name], wanted.key)
            names[name] = wanted.key
            found.append((wanted, Output(index, count, generation, url, place, naming)))
    return found


def _same_name(name: str, one: str, other: str) -> errors.SeedanceConfigurationError:
    return errors.SeedanceConfigurationError(
        f"{_cut(one, LONGEST_KEY)!r} and {_cut(other, LONGEST_KEY)!r} would both be stored as {name!r}: give "
        "name_template something that tells them apart, such as {generation_id}. Nothing was sent."
    )


class ManyTransfer:
    """
    Carries out a transfer of many.

    :param broken: Items that cannot be transferred whatever is done, and why.
    """

    def __init__(
        self,
        errand: Errand,
        outputs: Sequence[tuple[Wanted, Output]],
        broken: Sequence[tuple[str, errors.SeedanceError]] = (),
    ) -> None:
        self._errand = errand
        self._outputs = outputs
        self._record = StoredRecord(errand.place)
        self._urls: dict[str, FreshUrls] = {}
        self._lock = threading.Lock()
        self._done: dict[int, _Done] = {}
        self._failures: list[tuple[str, BaseException]] = list(broken)
        self._count = len(outputs) + len(broken)

    def run(self) -> dict[str, Any]:
        """
        Store everything, then return where it is.

        :raises SeedanceDestinationExistsError: something is there that may not be replaced; nothing was sent.
        :raises SeedanceMediaError: some could not be stored; the others are.
        """
        if not self._count:
            log.warning("Nothing of the campaign has succeeded: there is nothing to store.")
        if self._errand.again or self._errand.overwrite != "yes":
            self._record.load()
        if self._errand.overwrite == "no":
            self._refuse_existing()
            self._note_begun()
        stopped = self._store_all()
        self._sum_up()
        if stopped and len(self._done) + len(self._failures) < self._count:
            raise errors.SeedanceMediaError(
                f"The transfer was stopped when {len(self._done)} of {self._count} files were stored, which stay. {RETRY_IS_FREE}"
            )
        if self._failures:
            raise _failed(self._failures, len(self._done), self._count)
        ordered = [self._done[number] for number in range(len(self._outputs))]
        return {
            "path": f"{self._errand.place.display.rstrip('/')}/",
            "paths": [done.stored.path for done in ordered],
            "bytes": sum(done.stored.size for done in ordered),
            "sha256": [done.stored.sha256 for done in ordered],
            "generation_id": None,
            "generation_ids": [done.output.generation.generation_id for done in ordered],
            "stored": sum(done.how == "stored" for done in ordered),
            "skipped": sum(done.how != "stored" for done in ordered),
            "manifest": self._record.place.display if self._record.exists else None,
        }

    # ------------------------------------------------------------------ all of them

    def _store_all(self) -> bool:
        """Try every output, then return whether that was stopped before its end."""
        stop = self._errand.stop
        futures: dict[Future[_Done], int] = {}
        last = time.monotonic()
        # Not a `with` block: it would wait for downloads that the stop below is to end.
        pool = ThreadPoolExecutor(self._errand.max_parallel, thread_name_prefix="seedance-transfer")
        try:
            for number, (wanted, output) in enumerate(self._outputs):
                futures[pool.submit(self._store, wanted, output)] = number
            for future in as_completed(futures):
                if stop.is_set():
                    return True
                self._take(futures[future], future)
                if time.monotonic() - last >= PROGRESS_SECONDS:
                    last = time.monotonic()
                    self._save()
                    self._tell()
            return False
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            # What ended meanwhile is noted as well: a retry need not store it again.
            for future, number in futures.items():
                if number not in self._done and not future.cancelled() and future.exception() is None:
                    self._take(number, future)
            self._save()

    def _take(self, number: int, future: Future[_Done]) -> None:
        wanted, _ = self._outputs[number]
        error = future.exception()
        if error is not None:
            log.warning("%s could not be stored: %s", _cut(wanted.key, LONGEST_KEY), error)
            self._failures.append((wanted.key, error))
            return
        done = self._done[number] = future.result()
        generation_id, index = done.output.generation.generation_id, done.output.index
        name = self._name(done.stored)
        known = self._record.find(generation_id, index, name)
        file = StoredFile(
            name=name,
            key=wanted.key,
            generation_id=generation_id,
            index=index,
            bytes=done.stored.size,
            sha256=done.stored.sha256,
            tag=done.tag,
            by=self._errand.by,
            # What was never compared is not made certain by looking at it again.
            by_length=done.how == "size" and (known is None or known.sha256 is None or known.by_length),
        )
        if done.how != "stored" and known is not None and known.sha256 is not None:
            file = replace(file, key=known.key, by=known.by)
        self._record.add(file)

    def _tell(self) -> None:
        counts = Counter(done.how for done in self._done.values())
        log.info(
            "%d of %d files: %d stored (%s), %d skipped, %d failed.",
            len(self._done) + len(self._failures),
            self._count,
            counts["stored"],
            megabytes(self._downloaded()),
            len(self._done) - counts["stored"],
            len(self._failures),
        )

    def _downloaded(self) -> int:
        return sum(done.stored.size for done in self._done.values() if done.how == "stored")

    def _save(self) -> None:
        try:
            self._record.save()
        except errors.SeedanceError as error:
            # The files are there; only the next transfer knows less.
            log.warning("%s", error.message)

    # ------------------------------------------------------------------ one of them

    def _store(self, wanted: Wanted, output: Output) -> _Done:
        errand = self._errand
        if errand.stop.is_set():
            raise errors.SeedanceMediaError(f"The transfer of {output.what} was stopped. {RETRY_IS_FREE}")
        overwrite: Overwrite = errand.overwrite
        own = self._own(output)
        told = wanted.sha256[output.index - 1] if output.index <= len(wanted.sha256) else None
        if overwrite == "if-changed" or own is not None:
            found = self._already_there(wanted, output, told)
            if found is not None:
                return found
            noted = self._find(output)
            if overwrite == "if-changed" and (told or (noted and noted.sha256)):
                # What is there is something else, whatever its length.
                overwrite = "yes"
        stored = Transfer(
            client=errand.client,
            urls=self._fresh(output),
            overwrite=overwrite,
            stop=errand.stop,
            begun_before=own is not None and own.sha256 is None,
        ).store(output)
        if stored.downloaded and told and told != stored.sha256:
            log.warning(
                "%s was stored as the media host sent it, and has not the sha256 that its item tells (%s).",
                stored.path,
                told,
            )
        how: How = "stored" if stored.downloaded else "size"
        return _Done(output, wanted, stored, how, self._tag(errand.place.child(self._name(stored))))

    def _find(self, output: Output) -> StoredFile | None:
        known = output.known_place()
        name = known.display.removeprefix(self._errand.place.display.rstrip("/") + "/") if known else None
        return self._record.find(output.generation.generation_id, output.index, name)

    def _own(self, output: Output) -> StoredFile | None:
        """Return what an earlier try of this task instance noted of it."""
        file = self._find(output)
        return file if self._errand.again and file is not None and file.by == self._errand.by else None

    def _already_there(self, wanted: Wanted, output: Output, told: str | None) -> _Done | None:
        """Return what is stored if it is this very output, without asking the media host."""
        file = self._find(output)
        expected = told or (file.sha256 if file else None)
        place = output.known_place() or (self._errand.place.child(file.name) if file else None)
        if expected is None or place is None or (seen := place.stat()) is None:
            return None
        size, tag = seen
        how: How
        if file is None or file.sha256 != expected or self._errand.place.child(file.name) != place:
            # Only the hash is known: the file is read, wherever it is.
            same, how = place.digest()[1] == expected, "hash"
        elif file.bytes != size:
            return None
        elif place.reads_are_free:
            same, how = place.digest()[1] == expected, "hash"
        elif file.tag is not None and tag is not None:
            same, how = file.tag == tag, "version"
        else:
            same, how = True, "size"
        if not same:
            return None
        if told is None and file is not None and file.by_length:
            how = "size"  # it has not changed since, but was never compared
        log.debug("%s is left as it is (by its %s).", place.display, how)
        return _Done(output, wanted, Stored(place.display, size, expected, downloaded=False), how, tag)

    def _name(self, stored: Stored) -> str:
        return stored.path.removeprefix(self._errand.place.display.rstrip("/") + "/")

    def _tag(self, place: StorageLocation) -> str | None:
        if place.reads_are_free:
            return None
        try:
            seen = place.stat()
        except errors.SeedanceError as error:
            # It is stored; the next transfer compares less.
            log.warning("%s", error.message)
            return None
        return seen[1] if seen else None

    def _fresh(self, output: Output) -> FreshUrls:
        with self._lock:
            generation = output.generation
            if generation.generation_id not in self._urls:
                self._urls[generation.generation_id] = FreshUrls(generation, self._errand.hook)
            return self._urls[generation.generation_id]

    # ------------------------------------------------------------------ before and after

    def _refuse_existing(self) -> None:
        places = [
            place
            for _, output in self._outputs
            if self._own(output) is None and (place := output.known_place()) is not None
        ]
        with ThreadPoolExecutor(self._errand.max_parallel, thread_name_prefix="seedance-transfer") as pool:
            there = [
                place.display
                for place, found in zip(places, pool.map(self._taken, places), strict=True)
                if found
            ]
        if there:
            raise errors.SeedanceDestinationExistsError(
                f"{len(there)} of {self._count} files exist and overwrite=False: {_some(there)}. Nothing was sent, "
                "and they were not touched. Remove them, choose another destination, or set overwrite to True or "
                '"if-changed", and clear the task: the renders are paid for, and nothing is paid again.'
            )

    def _taken(self, place: StorageLocation) -> bool:
        return not self._errand.stop.is_set() and place.stat() is not None

    def _note_begun(self) -> None:
        """
        Note what is about to be stored, where nothing may be overwritten.

        A worker that is killed cannot note any more what it has stored; without this, the retry would take it
        for something that may not be touched, and never get on.
        """
        for wanted, output in self._outputs:
            if self._own(output) is not None or output.naming is None:
                continue
            place = output.known_place() or output.place_for("")
            self._record.add(
                StoredFile(
                    name=place.display.removeprefix(self._errand.place.display.rstrip("/") + "/"),
                    key=wanted.key,
                    generation_id=output.generation.generation_id,
                    index=output.index,
                    by=self._errand.by,
                )
            )
        self._save()

    def _sum_up(self) -> None:
        counts = Counter(done.how for done in self._done.values())
        words = {
            "hash": "left as they are by their hash",
            "version": "left as they are by what the store says of their version",
            "size": "left as they are by their length, contents were not compared",
        }
        kept = [f"{counts[how]} {words[how]}" for how in ("hash", "version", "size") if counts[how]]
        log.info(
            "%s: %d of %d files stored (%s)%s, %d failed.",
            self._errand.place.display,
            counts["stored"],
            self._count,
            megabytes(self._downloaded()),
            "".join(f", {one}" for one in kept),
            len(self._failures),
        )


def _failed(failures: Sequence[tuple[str, BaseException]], done: int, count: int) -> BaseException:
    """
    Return the error of a task of which some files could not be stored.

    One that a retry can cure comes first: a retry saves what can be saved, before it expires as well.
    """
    ordered = sorted(failures, key=lambda failure: not getattr(failure[1], "retry_helps", True))
    first = ordered[0][1]
    curable = sum(bool(getattr(error, "retry_helps", True)) for _, error in failures)
    named = [f"{_cut(key, LONGEST_KEY)} ({_reason(error)})" for key, error in ordered[:NAMED]]
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    again = (
        f"A retry goes on with the others and pays nothing; it may help {curable} of them."
        if curable
        else "A retry cannot help any of them, and was not begun; nothing was paid."
    )
    message = (
        f"{len(failures)} of {count} files could not be stored: {'; '.join(named)}{more}. {done} are stored and "
        f"stay. {again} The renders are paid for; the log tells of each file."
    )
    error = (
        type(first)(message, **{**first.details(), "generation_id": None})
        if isinstance(first, errors.SeedanceError)
        else errors.SeedanceMediaError(message)
    )
    error.__cause__ = first
    return error


def _reason(error: BaseException) -> str:
    said = error.message if isinstance(error, errors.SeedanceError) else f"{type(error).__name__}: {error}"
    return _cut(said.removesuffix(RETRY_IS_FREE).strip().rstrip("."), LONGEST_REASON)


def describe(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the event of an asset tells of a transfer of many; it stays small, however many there are."""
    return {
        "path": result["path"],
        "url": result["path"],
        "generation_id": None,
        "generation_ids": result["generation_ids"][:IN_EVENT],
        "paths": result["paths"][:IN_EVENT],
        "files": len(result["paths"]),
        "stored": result["stored"],
        "skipped": result["skipped"],
        "bytes": result["bytes"],
        "manifest": result["manifest"],
    }


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
