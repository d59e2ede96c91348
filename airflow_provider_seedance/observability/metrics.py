"""
Metrics, sent to the backend that is configured in ``[metrics]`` of Airflow.

========================  ========  =======================  ==================================================
name                      kind      tags                     meaning
========================  ========  =======================  ==================================================
``seedance.requests``     counter   ``api``, ``kind``        requests sent: ``submit``, ``read`` or ``cancel``
``seedance.refusals``     counter   ``api``                  requests refused for quota (429)
``seedance.renders``      counter   ``api``, ``outcome``     ends seen by a triggerer: ``succeeded``, ``failed`` …
``seedance.polls``        timer     ``api``                  status requests of a generation (a count, not a time)
``seedance.delay``        timer     ``api``                  milliseconds from an end to the poll that found it, if
                                                             the service reports when it ended
``seedance.credits``      counter   ``api``                  credits of the generations that were delivered
``seedance.cost_usd``     counter   ``api``                  their cost in US dollars
``seedance.tokens``       counter   ``api``                  their tokens, where the service counts them
``seedance.budget_used``  gauge     ``conn_id``, ``per``     share of a budget that is spent or reserved, 0 to 1
========================  ========  =======================  ==================================================

With ``[metrics] otel_on``, the cost in US dollars is also counted as ``gen_ai.usage.cost.amount``, with
``gen_ai.provider.name`` and ``gen_ai.request.model``.

Nothing here raises, and no metric names a task, a generation or a key.
"""

from __future__ import annotations

import logging

from airflow.providers.common.compat.sdk import Stats, conf

from airflow_provider_seedance.generations import Generation

log = logging.getLogger(__name__)


def _send(method: str, name: str, value: float, **tags: str) -> None:
    try:
        getattr(Stats, method)(name, value, tags=tags)
    except Exception as error:
        # A failing metrics backend must not fail a paid generation.
        log.debug("No statistics: %s", error)


def _has_opentelemetry() -> bool:
    try:
        return bool(conf.getboolean("metrics", "otel_on", fallback=False))
    except Exception:
        return False


def count_request(api: str, kind: str) -> None:
    """Count a request; ``kind`` is ``submit``, ``read`` or ``cancel``."""
    _send("incr", "seedance.requests", 1, api=api, kind=kind)


def count_refusal(api: str) -> None:
    """Count a request that was refused for quota."""
    _send("incr", "seedance.refusals", 1, api=api)


def render_ended(*, api: str, outcome: str, polls: int, delay: float | None) -> None:
    """Count the end of a render, its readings, and the seconds from its end to the poll that found it."""
    _send("incr", "seedance.renders", 1, api=api, outcome=outcome)
    _send("timing", "seedance.polls", polls, api=api)
    if delay is not None:
        _send("timing", "seedance.delay", delay * 1000.0, api=api)


def cost_incurred(generation: Generation) -> None:
    """Count the cost of a generation that is delivered."""
    api, cost_usd = generation.api, generation.cost_usd
    counted = {"credits": generation.credits, "cost_usd": cost_usd, "tokens": generation.output_tokens}
    for name, value in counted.items():
        if value:
            _send("incr", f"seedance.{name}", value, api=api)
    if cost_usd and _has_opentelemetry():
        tags = {
            "gen_ai.provider.name": api,
            "gen_ai.request.model": generation.model or "",
            "currency": "USD",
        }
        _send("incr", "gen_ai.usage.cost.amount", cost_usd, **tags)


def budget_used(conn_id: str, per: str, share: float) -> None:
    """Report the share of a budget that is used."""
    _send("gauge", "seedance.budget_used", share, conn_id=conn_id, per=per)
