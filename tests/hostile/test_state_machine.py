"""A moment of what ``make state-machine`` does for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import state_machine


@pytest.mark.parametrize("machine", state_machine.MACHINES)
def test_never_twice_and_never_lost(machine: type, tmp_path: Path) -> None:
    with state_machine.prepared(tmp_path):
        state_machine.run(machine, examples=25, steps=20)
    assert machine.counts["steps"] >= 25  # type: ignore[attr-defined]
