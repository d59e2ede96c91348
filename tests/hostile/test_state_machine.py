"""A short run of ``make state-machine``."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import state_machine


@pytest.mark.parametrize("machine", state_machine.MACHINES)
def test_renders_are_never_paid_twice_and_never_lost(machine: type, tmp_path: Path) -> None:
    with state_machine.prepared(tmp_path):
        state_machine.run(machine, examples=10, steps=20, derandomize=True)
    assert machine.counts["steps"] >= 10  # type: ignore[attr-defined]
