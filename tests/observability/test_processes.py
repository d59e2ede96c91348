"""Metrics of a process on the socket of a StatsD server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import contextlib
with contextlib.suppress(ImportError):
    import airflow.sdk.serde  # as task runner and triggerer do, which sets the statistics up
from airflow_provider_seedance.observability import metrics
from observability.renders import PAID, UNPRICED
metrics.count_request("ark", "submit")
metrics.count_refusal("ark")
metrics.render_ended(api="ark", outcome="succeeded", polls=4, delay=2.5)
metrics.render_ended(api="runbase", outcome="failed", polls=1, delay=None)
metrics.cost_incurred(PAID)
metrics.cost_incurred(UNPRICED)
metrics.budget_used("seedance_default", "day", 0.5)
"""


def test_statsd_receives_every_metric() -> None:
    pytest.importorskip("statsd")
    statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    statsd.bind(("127.0.0.1", 0))
    statsd.settimeout(10)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
    }
    with statsd:
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True)
        lines = [line for line in (statsd.recv(1000).decode() for _ in range(12)) if "seedance" in line]
    assert sorted(lines) == sorted(
        [
            "airflow.seedance.requests,api=ark,kind=submit:1|c",
            "airflow.seedance.refusals,api=ark:1|c",
            "airflow.seedance.renders,api=ark,outcome=succeeded:1|c",
            "airflow.seedance.polls,api=ark:4.000000|ms",
            "airflow.seedance.delay,api=ark:2500.000000|ms",
            "airflow.seedance.renders,api=runbase,outcome=failed:1|c",
            "airflow.seedance.polls,api=runbase:1.000000|ms",
            "airflow.seedance.credits,api=seedanceapi-v1:28|c",
            "airflow.seedance.cost_usd,api=seedanceapi-v1:0.14|c",
            "airflow.seedance.tokens,api=seedanceapi-v1:108900|c",
            "airflow.seedance.budget_used,conn_id=seedance_default,per=day:0.5|g",
        ]
    )
