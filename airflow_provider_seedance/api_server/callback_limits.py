"""Limits of the callbacks in one process of the API server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CallbackLimits:
    """
    Limits, timeouts and backoffs; times in seconds.

    :param body_timeout: For the arrival of a body: it is small, so a slow one is an attack.
    :param max_in_flight: Callbacks not yet delivered. Beyond it the answer is 503, and the polls remain.
    :param max_payloads: Different payloads in flight for one submission; services send one or two.
    :param max_deliveries: Concurrent deliveries, each a database transaction.
    :param retry_timeout: For a callback that arrived before the task deferred, or met database errors.
    :param id_retry_timeout: The same for a payload with an id, which a task awaits after a lost submission reply.
    :param min_attempts: Minimum attempts, because one slow attempt may exceed the whole timeout.
    :param early_backoff: First pause of a callback that arrived before the task deferred.
    :param error_backoff: First pause after a database error.
    :param max_backoff: Longest of these pauses, which double.
    :param quiet_period: Seconds without a request before deliveries start, so that a burst is answered first.
    :param max_quiet_wait: Longest such wait of one delivery.
    :param max_status_requests: Concurrent status requests to one service.
    :param status_backoff: First pause between status requests, and worker starts, for one submission; it doubles.
    :param max_status_backoff: Longest such pause; a leaked URL must not use up the quota.
    :param connection_ttl: Lifetime of a cached connection.
    :param missing_connection_ttl: Lifetime of a cached failure to find one.
    :param stale_connection_ttl: Use of an expired connection that looks missing because a secrets backend fails.
    :param max_connections: Cached connections, beyond which the missing ones are dropped.
    :param max_lookups: Concurrent lookups of known connections, and as many of unknown ones.
    :param unknown_lookups_per_second: Rate for connections that a forged token may name; beyond it the answer is 503.
    :param unknown_lookup_burst: Such lookups at once.
    """

    body_timeout: float = 10.0
    max_in_flight: int = 20_000
    max_payloads: int = 8
    max_deliveries: int = 2
    retry_timeout: float = 120.0
    id_retry_timeout: float = 900.0
    min_attempts: int = 5
    early_backoff: float = 3.0
    error_backoff: float = 0.5
    max_backoff: float = 15.0
    quiet_period: float = 0.03
    max_quiet_wait: float = 1.5
    max_status_requests: int = 8
    status_backoff: float = 15.0
    max_status_backoff: float = 600.0
    connection_ttl: float = 30.0
    missing_connection_ttl: float = 3.0
    stale_connection_ttl: float = 600.0
    max_connections: int = 256
    max_lookups: int = 2
    unknown_lookups_per_second: float = 2.0
    unknown_lookup_burst: int = 20


DEFAULT_LIMITS = CallbackLimits()
