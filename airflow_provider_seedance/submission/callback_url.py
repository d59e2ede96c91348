"""Callback URLs for the submissions of a task instance."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.settings import Settings
from airflow_provider_seedance.version_compat import region_of

log = logging.getLogger(__name__)


def callback_url_factory(settings: Settings, context: Any, timeout: float) -> Callable[[str], str]:
    """
    Return a function that makes the callback URL of a submission from its nonce.

    :param context: Of the task instance that submits.
    :param timeout: Seconds that the task waits; a URL is valid for a day longer.
    """
    secret, base_url = settings.callback_secret, settings.callback_base_url
    assert secret  # both checked before the first submission
    assert base_url
    ti, team = context["ti"], getattr(context.get("dag_run"), "team_name", None)
    if len(secret) < tokens.MIN_SECRET_CHARS:
        log.warning(
            "The callback_secret of connection %r is short; a long random one is safer.", settings.conn_id
        )

    region_id, index = region_of(ti)

    def make(nonce: str) -> str:
        claims = tokens.CallbackClaims(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=index,
            conn_id=settings.conn_id,
            nonce=nonce,
            expires=int(time.time() + timeout + tokens.GRACE_SECONDS),
            region_id=region_id,
            team=team or "",
        )
        return tokens.callback_url(base_url, tokens.sign(claims, secret))

    return make
