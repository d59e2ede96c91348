"""
The sender of callbacks: a thread that posts the status of renders to their callback URLs.

It starts with the first render that has a callback URL. A failed callback is not retried, so that clients cannot
depend on callbacks.
"""

from __future__ import annotations

import json
import threading
import urllib.error
from collections.abc import Mapping
from typing import Any

from airflow_provider_seedance.emulator.json_http import open_url
from airflow_provider_seedance.emulator.ledger import CallbackEntry
from airflow_provider_seedance.emulator.models import EmulatedGeneration
from airflow_provider_seedance.emulator.services.service import Service
from airflow_provider_seedance.emulator.state import Backend

_POLL_SECONDS = 0.02
_TIMEOUT_SECONDS = 30.0  # a receiver may run on a busy machine
_JOIN_TIMEOUT_SECONDS = 6.0


class CallbackSender:
    """Sender of callbacks; the service of a render determines the statuses to report, and the body."""

    def __init__(self, *, backend: Backend, services: Mapping[str, Service]) -> None:
        self._backend = backend
        self._services = services
        #: The status that was sent last, by generation id.
        self._watched: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, generation_id: str) -> None:
        """Send callbacks for a render from now on."""
        with self._lock:
            self._watched[generation_id] = None
            if self._thread is None:
                name = "seedance-emulator-callbacks"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread; the backend must be stopping."""
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_SECONDS)

    def _run(self) -> None:
        while not self._backend.stopping.wait(_POLL_SECONDS):
            with self._lock:
                watched = dict(self._watched)
            for generation_id, sent in watched.items():
                if self._send_due(generation_id, sent):
                    with self._lock:
                        del self._watched[generation_id]

    def _send_due(self, generation_id: str, sent: str | None) -> bool:
        """Send the current status unless it has been sent; return whether no further one follows."""
        try:
            generation = self._backend.view(self._backend.get(generation_id))
            service = self._services[generation.api]
            due = service.callback_due(generation) and generation.status != sent
            body = service.callback_body(generation) if due else {}
        except KeyError:
            return True  # the record was removed
        if due:
            self._watched[generation_id] = generation.status
            self._send(generation, body)
        return generation.ended_at is not None

    def _send(self, generation: EmulatedGeneration, body: dict[str, Any]) -> None:
        url = generation.callback_url or ""
        content = json.dumps(body).encode()
        signed = self._services[generation.api].callback_headers(generation, content)
        headers = {"User-Agent": "seedance-emulator", **signed}
        status: int | None = None
        try:
            with open_url("POST", url, content, timeout=_TIMEOUT_SECONDS, headers=headers) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except OSError:
            pass
        at, api = self._backend.clock.wall(), generation.api
        entry = CallbackEntry(at=at, api=api, generation_id=generation.id, url=url, body=body, status=status)
        self._backend.ledger.add(entry)
