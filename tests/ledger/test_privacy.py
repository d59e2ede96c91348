"""Secrets in messages of a service, which do not reach the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from operators.batch_runner import Batch

from airflow_provider_seedance.emulator.emulator import SeedanceEmulator


@pytest.mark.parametrize("fault", ["refuse", "fail"])
def test_a_failed_item_keeps_no_signature(
    services: SeedanceEmulator, connect: Callable[..., None], ledger: Path, fault: str
) -> None:
    batch = Batch(services, connect)
    connect("seedanceapi-v1")
    services.fault(fault, message="cannot read https://u:p4ss@bucket.example/a.png?X-Amz-Signature=deadbeef")
    result = batch.run(["a", "b"], on_item_failure="keep")
    assert "bucket.example/a.png" in result["failed"][0]["error"]
    raw = b"".join(path.read_bytes() for path in ledger.parent.glob("ledger.db*"))
    assert b"bucket.example/a.png" in raw
    assert b"deadbeef" not in raw
    assert b"p4ss" not in raw
