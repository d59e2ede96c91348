"""Server for the services' callbacks, which records them until a test delivers them."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx


class CallbackRecorder:
    """An HTTP server that takes every POST, and can repeat it elsewhere."""

    def __init__(self) -> None:
        calls = self._calls = list[tuple[str, bytes]]()

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
        posts = [(server + path, body) for path, body in self.calls for server in servers] * times
        headers = {"Content-Type": "application/json"}
        # What the environment says of proxies is not meant for this machine.
        with (
            httpx.Client(headers=headers, timeout=60, trust_env=False, verify=False) as client,
            ThreadPoolExecutor(len(posts)) as pool,
        ):
            return list(pool.map(lambda post: client.post(post[0], content=post[1]).status_code, posts))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
