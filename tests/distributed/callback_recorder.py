"""Server for the services' callbacks, which records them until a test delivers them."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class CallbackRecorder:
    """An HTTP server that takes every POST, and can repeat it elsewhere."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, bytes]] = []
        calls = self._calls

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                calls.append((self.path, body))
                self.send_response(202)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="callback_recorder", daemon=True
        )

    @property
    def url(self) -> str:
        """Callback base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def calls(self) -> list[tuple[str, bytes]]:
        """Path and body of each call so far."""
        return list(self._calls)

    def deliver(self, servers: Collection[str], times: int = 1) -> list[int]:
        """Repeat every call to all of these servers at once a number of times; return the status codes."""
        orders = [(server, path, body) for path, body in self.calls for server in servers] * times
        with ThreadPoolExecutor(len(orders)) as pool:
            return list(pool.map(lambda order: _post(*order), orders))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _post(server: str, path: str, body: bytes) -> int:
    request = urllib.request.Request(
        server + path, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    with _OPENER.open(request, timeout=60) as response:
        return int(response.status)


# What the environment says of proxies is not meant for this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
