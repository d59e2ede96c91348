"""Memory of a transfer, which does not depend on the length of the file."""

from __future__ import annotations

import mmap
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from storage.stores import ObjectStore

from airflow_provider_seedance.storage import location
from transfers.results import operator, single
from transfers.server import MediaServer

SIZE = 24 * 1024 * 1024
PEAK = 8 * 1024 * 1024


class ForgetfulStore(ObjectStore):
    """Counts bytes in place of keeping them."""

    protocol = "forgetful"
    counted = 0

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:  # type: ignore[override]
        self.counted += Path(lpath).stat().st_size


@pytest.mark.parametrize("kind", ["local", "store"])
def test_constant_memory(
    host: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conn: None, kind: str
) -> None:
    store = ForgetfulStore()
    monkeypatch.setattr(location, "_filesystem", lambda path: store if kind == "store" else path.fs)
    with (tmp_path / "source").open("w+b") as source:
        source.truncate(SIZE)
        # Mapped, not held; closed by the thread that sends the last of it.
        served = mmap.mmap(source.fileno(), 0)
        url: Any = host.put("/v.mp4", served)  # type: ignore[arg-type]
        task = operator(single(url), f"{tmp_path}/out.mp4")
        task.execute({})  # its imports stay in memory for files of any length
        store.counted = 0
        tracemalloc.start()
        try:
            stored = task.execute({})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        host.files.clear()
    assert stored["bytes"] == SIZE
    assert peak < PEAK
    if kind == "store":
        assert store.counted == SIZE
    else:
        assert (tmp_path / "out.mp4").stat().st_size == SIZE
