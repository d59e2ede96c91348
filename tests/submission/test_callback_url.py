"""The addresses that services are given."""

from __future__ import annotations

import logging
import time

import pytest
from helpers import settings
from support import TaskInstance

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.callback_url import addresses

SECRET = "long enough a secret"


def connected(secret: str = SECRET) -> Settings:
    return settings(callback_base_url="https://airflow.example.com/", callback_secret=secret)


def test_an_address_names_the_task_instance_and_the_submission() -> None:
    url = addresses(connected(), TaskInstance(map_index=3), 600.0)("nonce")
    assert url.startswith("https://airflow.example.com/seedance/callbacks/")
    token = url.rpartition("/")[2]
    ticket = tokens.decode_unverified(token)
    assert ticket is not None
    assert (ticket.dag_id, ticket.run_id, ticket.task_id, ticket.map_index) == ("dag", "run", "task", 3)
    assert (ticket.conn_id, ticket.nonce) == ("seedance_test", "nonce")
    assert tokens.proves(token, SECRET, time.time() + 600)
    assert not tokens.proves(token, SECRET, time.time() + 600 + tokens.GRACE + 1)


def test_a_task_that_is_not_mapped() -> None:
    ti = TaskInstance()
    for map_index in (-1, None):
        ti.map_index = map_index  # type: ignore[assignment]
        ticket = tokens.decode_unverified(addresses(connected(), ti, 1.0)("n").rpartition("/")[2])
        assert ticket is not None
        assert ticket.map_index == -1


def test_a_short_secret_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        addresses(connected(), TaskInstance(), 1.0)
        assert caplog.text == ""
        addresses(connected("short"), TaskInstance(), 1.0)
    assert "callback_secret of connection 'seedance_test' is short" in caplog.text
    assert "'short'" not in caplog.text
