"""Callback URLs of submissions."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from helpers import settings
from support import TaskInstance, make_context

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.submission.callback_url import callback_url_factory

SECRET = "long enough a secret"


def connected(secret: str = SECRET) -> Settings:
    return settings(callback_base_url="https://airflow.example.com/", callback_secret=secret)


def token_of(ti: TaskInstance, **context: Any) -> str:
    whole: Any = {**make_context(None, ti), **context}
    url = callback_url_factory(connected(), whole, 600.0)("nonce")
    assert url.startswith("https://airflow.example.com/seedance/callbacks/")
    return url.rpartition("/")[2]


def claims_of(ti: TaskInstance, **context: Any) -> tokens.CallbackClaims:
    claims = tokens.decode_unverified(token_of(ti, **context))
    assert claims is not None
    return claims


def test_a_url_names_the_task_instance_and_the_submission() -> None:
    ti = TaskInstance(map_index=3)
    claims = claims_of(ti)
    assert (claims.dag_id, claims.run_id, claims.task_id, claims.map_index) == ("dag", "run", "task", 3)
    assert (claims.conn_id, claims.nonce) == ("seedance_test", "nonce")
    end = time.time() + 600 + tokens.GRACE_SECONDS
    assert tokens.verify(token_of(ti), SECRET, end - 60)
    assert not tokens.verify(token_of(ti), SECRET, end + 60)


@pytest.mark.parametrize(("team", "claimed"), [(None, ""), ("films", "films")])
def test_a_url_names_the_team(team: str | None, claimed: str) -> None:
    assert claims_of(TaskInstance(), dag_run=SimpleNamespace(team_name=team)).team == claimed


@pytest.mark.parametrize("map_index", [-1, None])
def test_an_unmapped_task(map_index: Any) -> None:
    assert claims_of(TaskInstance(map_index=map_index)).map_index == -1


@pytest.mark.parametrize(("map_index", "region_index"), [(2, 2), (-1, 5)])
def test_a_mapped_task_and_a_pass_of_a_loop_on_airflow_3_4(map_index: int, region_index: int) -> None:
    ti: Any = TaskInstance(map_index=map_index)
    ti.region_id, ti.region_index = UUID("0f" * 16), region_index
    claims = claims_of(ti)
    assert (claims.region_id, claims.map_index) == ("0f" * 16, region_index)


def test_a_short_secret_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        callback_url_factory(connected("x" * tokens.MIN_SECRET_CHARS), make_context(None), 1.0)
        assert caplog.text == ""
        callback_url_factory(connected("x" * (tokens.MIN_SECRET_CHARS - 1)), make_context(None), 1.0)
    assert caplog.messages == [
        "The callback_secret of connection 'seedance_test' is short; a long random one is safer."
    ]
