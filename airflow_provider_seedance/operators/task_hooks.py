"""Hooks of the connections of a task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_seedance.generations import Media
from airflow_provider_seedance.hooks.seedance import SeedanceHook
from airflow_provider_seedance.policies.connection_list import connection_ids
from airflow_provider_seedance.triggers.cancellation import cancel_abandoned

log = logging.getLogger(__name__)


class Hooks:
    """
    Hooks of the connections of a task, in order.

    :param value: ``seedance_conn_id`` of the operator.
    """

    def __init__(self, value: Any) -> None:
        self.all = tuple(SeedanceHook(conn_id) for conn_id in connection_ids(value))
        self.are_several = len(self.all) > 1

    def of(self, conn_id: str | None) -> SeedanceHook:
        """Return the hook of the connection that was paid, even if it has left the list; by default the first."""
        for hook in self.all:
            if hook.seedance_conn_id == conn_id:
                return hook
        if conn_id is not None:
            hook = SeedanceHook(conn_id)
            try:
                _ = hook.settings
                return hook
            except AirflowNotFoundException:
                log.warning(
                    "There is no connection %r any more; %r is used.", conn_id, self.all[0].seedance_conn_id
                )
        return self.all[0]

    def cancel(self, ti: Any, billed_to: Mapping[str, Sequence[str]], media: Media, log: Any) -> None:
        """Cancel the generations of the connections, unless another try continues."""
        for conn_id, ids in billed_to.items():
            cancel_abandoned(partial(self.of, conn_id), ti, ids, media, log)
