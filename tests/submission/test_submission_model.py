"""Submitting at most once, and losing nothing, in random histories of a task."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from submission.submission_model import Machine

pytestmark = pytest.mark.usefixtures("quick")

TestSubmittingOnce = Machine.TestCase
TestSubmittingOnce.settings = settings(
    stateful_step_count=20, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
