"""Helpers of the tests of ``estimate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_seedance.cli import main

EXAMPLES = Path(__file__).parents[2] / "example_dags"


def estimate(capfd: pytest.CaptureFixture[str], *line: str) -> dict[str, Any]:
    """Run the command and return its JSON."""
    main(["estimate", *line, "--output", "json"])
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found
