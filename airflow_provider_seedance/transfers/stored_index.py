"""
What a transfer of many has stored: a record beside the files, one line for each.

It tells the next transfer into the same directory which outputs are there already, and a retry what its
earlier try has stored. It is advice: files without a line, or that are not what their line says, are
downloaded again. Several tasks may store in one directory: each one adds its lines to those of the others,
and where two write at the very same moment, only the advice of one of them is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch.manifest import MAX_MANIFEST_BYTES
from airflow_provider_seedance.storage.jsonl import parse_lines, write_lines

if TYPE_CHECKING:
    from airflow_provider_seedance.storage.location import StorageLocation

log = logging.getLogger(__name__)

#: Name of the record in the directory of the files.
RECORD_NAME = "seedance-stored.jsonl"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """
    One file that was stored, or that is on its way.

    :param name: Below the directory.
    :param key: Of the item of its campaign.
    :param index: Of the output of its generation, counted from 1.
    :param bytes: Its length; ``None`` of a file on its way.
    :param sha256: Of its bytes, in hexadecimal; ``None`` of a file on its way.
    :param tag: What the store said its version is, where it says.
    :param by: The task instance and the retries it had, so that a retry knows its own files.
    :param by_length: Whether it was there already and has the announced length, and nobody compared more.
    """

    name: str
    key: str
    generation_id: str
    index: int
    bytes: int | None = None
    sha256: str | None = None
    tag: str | None = None
    by: str | None = None
    by_length: bool = False


class StoredRecord:
    """
    The record of one directory. It is changed by one thread; others may look things up meanwhile.

    :param directory: Of the files.
    """

    def __init__(self, directory: StorageLocation) -> None:
        self.place = directory.child(RECORD_NAME)
        #: Whether there is such a file.
        self.exists = False
        self._files: dict[str, StoredFile] = {}
        self._names: dict[tuple[str, int], str] = {}
        #: Names of the files added by this process.
        self._own: set[str] = set()
        self._changed = False

    def load(self) -> None:
        """
        Read what was stored before; nothing where there is no record, or none that can be read.

        :raises SeedanceMediaError: the store could not be read; a retry helps.
        """
        data = self.place.read(MAX_MANIFEST_BYTES)
        self.exists = data is not None
        if data is None:
            return
        try:
            files = [_read(line) for line in parse_lines(data, self.place.display)]
        except (errors.SeedanceConfigurationError, ValueError) as error:
            log.warning("%s is not a record of stored files and is not used (%s).", self.place.display, error)
            return
        for file in files:
            if file.name not in self._own:
                self._files[file.name] = file
                output = file.generation_id, file.index
                if self._names.get(output) not in self._own:
                    self._names[output] = file.name

    def find(self, generation_id: str, index: int, name: str | None = None) -> StoredFile | None:
        """
        Return what is known of an output.

        :param name: Preferred, where the output was stored under several names.
        """
        for candidate in (name, self._names.get((generation_id, index))):
            file = self._files.get(candidate) if candidate is not None else None
            if file is not None and (file.generation_id, file.index) == (generation_id, index):
                return file
        return None

    def add(self, file: StoredFile) -> None:
        """Add a file; another one of the same name makes room."""
        self._changed = self._changed or self._files.get(file.name) != file
        before = self._names.get((file.generation_id, file.index), file.name)
        if before != file.name and before in self._own and self._files[before].sha256 is None:
            # It was on its way under the name that its extension was thought to give.
            del self._files[before]
        self._own.add(file.name)
        self._files[file.name] = file
        self._names[file.generation_id, file.index] = file.name

    def save(self) -> None:
        """
        Write the record, whole, if there is something new.

        :raises SeedanceMediaError: it could not be written.
        """
        if not self._changed:
            return
        self.load()
        write_lines(self.place, map(_line, self))
        self._changed = False
        self.exists = True

    def __iter__(self) -> Iterator[StoredFile]:
        return iter(sorted(self._files.values(), key=lambda file: file.name))


def _line(file: StoredFile) -> dict[str, Any]:
    told = asdict(file)
    return {name: value for name, value in told.items() if value or name not in ("tag", "by", "by_length")}


def _read(line: dict[str, Any]) -> StoredFile:
    kinds: dict[str, Any] = {
        "name": str,
        "key": str,
        "generation_id": str,
        "index": int,
        "bytes": int | None,
        "sha256": str | None,
        "tag": str | None,
        "by": str | None,
    }
    known = {name: line.get(name) for name in kinds}
    for name, kind in kinds.items():
        if not isinstance(known[name], kind):
            raise ValueError(f"{name} of a file is {str(known[name])[:60]!r}")
    # It says where files are looked for: only below its own directory.
    if any(segment in ("", ".", "..") for segment in str(known["name"]).split("/")):
        raise ValueError("a name leads out of the directory")
    return StoredFile(**known, by_length=line.get("by_length") is True)  # type: ignore[arg-type]
