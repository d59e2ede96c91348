"""A private Airflow that bears many hands at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from harness import TestAirflow

from airflow_provider_seedance.local_airflow.processes import Component


class BusyAirflow(TestAirflow):
    """
    An Airflow whose workers have an API server of their own, and whose people act one after the other.

    On sqlite an API server cannot serve a person and anybody else at the same time: it writes its audit
    log on its event loop, and so waits for a lock whose holder waits for the event loop, until the time
    for locks (half a minute) is over.
    """

    __test__ = False

    def __init__(self, *, config: Mapping[tuple[str, str], str], **options: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        url = f"http://127.0.0.1:{self._port}/execution/"
        super().__init__(config={**config, ("core", "execution_api_server_url"): url}, **options)
        self._one_person = threading.Lock()
        self._components["api-server"].arguments += ["--apps", "core"]
        name = "execution-api"
        arguments = ["api-server", "--apps", "execution", "--port", str(self._port)]
        self._components[name] = Component(name, arguments, self.home / "logs" / f"{name}.log")

    def rest(self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """Any request to the REST API, after those under way."""
        with self._one_person:
            return super().rest(method, path, body, query)

    def stop(self, grace: float = 1.0) -> None:
        """End all processes; API servers take long and have nothing to lose."""
        super().stop(grace)

    def _wait_healthy(self, name: str, timeout: float) -> None:
        if name != "execution-api":
            super()._wait_healthy(name, timeout)
            return

        def look() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return True
            return False

        self.wait_until(look, timeout, f"the {name}")
