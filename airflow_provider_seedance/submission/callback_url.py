"""The addresses at which services call about the submissions of a task instance."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.settings import Settings

log = logging.getLogger(__name__)


def addresses(settings: Settings, ti: Any, timeout: float) -> Callable[[str], str]:
    """
    Return what makes the address for the service to call, from the nonce of a submission.

    :param ti: The task instance that submits.
    :param timeout: Seconds for which it waits; the address is good for a day longer.
    """
    secret, base_url = settings.callback_secret, settings.callback_base_url
    assert secret  # check_callback has seen to both
    assert base_url
    if len(secret) < tokens.SHORTEST_SECRET:
        log.warning(
            "The callback_secret of connection %r is short; a long random one is safer.", settings.conn_id
        )

    def address(nonce: str) -> str:
        ticket = tokens.CallbackClaims(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            conn_id=settings.conn_id,
            nonce=nonce,
            expires=int(time.time() + timeout + tokens.GRACE),
        )
        return tokens.address(base_url, tokens.sign(ticket, secret))

    return address
