"""A media host for tests: real sockets, and every misbehaviour a download has to live with."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from scripted_server import reset


@dataclass
class File:
    """
    The reply to a path.

    :param ranges: Whether range requests are honoured.
    :param if_range: Whether ``If-Range`` is.
    """

    data: bytes
    content_type: str | None = "video/mp4"
    etag: str | None = None
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True


@dataclass
class Reply:
    """
    An unusual reply to one request.

    :param status: A status with ``body``, in place of the file.
    :param headers: Added to the reply; ``None`` removes one.
    :param cut: The connection breaks after this number of bytes of the body.
    :param reset: Whether it breaks with a reset instead of an end.
    :param during: Called when half of the body was sent.
    :param whole: Whether a range request is ignored.
    """

    status: int | None = None
    body: bytes = b""
    headers: dict[str, str | None] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    during: Callable[[], Any] | None = None
    whole: bool = False


class Seen(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]


class MediaServer:
    """
    Server of files in memory; a context manager.

    ``script`` queues unusual replies for a path, ``always`` gives one to every request for it.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, File] = {}
        self.always: dict[str, Reply] = {}
        self.requests: list[Seen] = []
        self._scripts: dict[str, deque[Reply]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients break connections as well

        self._http = Server(("127.0.0.1", 0), Handler)
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # ends the wait for connections at once, where the system allows it
            self._http.socket.shutdown(socket.SHUT_RDWR)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of a path."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def put(self, path: str, data: bytes, **options: Any) -> str:
        """Serve a file and return its address."""
        self.files[path] = File(data, **options)
        return self.url(path)

    def script(self, path: str, *replies: Reply) -> None:
        """Answer the next requests for a path with these."""
        self._scripts.setdefault(path, deque()).extend(replies)

    def ranges(self, path: str) -> list[str | None]:
        """Return the range of each request for a path."""
        return [seen.headers.get("range") for seen in self.requests if seen.path.partition("?")[0] == path]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append(Seen(handler.path, headers))
        path = handler.path.partition("?")[0]
        queue = self._scripts.get(path)
        reply = queue.popleft() if queue else self.always.get(path, Reply())
        file = self.files.get(path)
        if reply.status is None and file is None:
            reply = Reply(status=404, body=b"no such file", headers={"Content-Type": "text/plain"})
        status, body, named = _reply(file, reply, headers)
        sent = {name: value for name, value in (named | reply.headers).items() if value is not None}
        handler.send_response_only(status)
        for name, value in sent.items():
            handler.send_header(name, value)
        if "Content-Length" not in sent:
            handler.send_header("Connection", "close")
        handler.end_headers()
        self._send(handler, body, reply)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, body: bytes, reply: Reply) -> None:
        cut = len(body) // 2 if reply.during else reply.cut
        handler.wfile.write(body if cut is None else body[:cut])  # which may be a mapped file
        handler.wfile.flush()
        if reply.during:
            reply.during()
            handler.wfile.write(body[cut:])
        if reply.reset:
            reset(handler.connection)
            handler.connection.close()
        handler.close_connection |= reply.cut is not None  # else as its own header has said


def _reply(
    file: File | None, reply: Reply, headers: dict[str, str]
) -> tuple[int, bytes, dict[str, str | None]]:
    if reply.status is not None or file is None:
        return reply.status or 500, reply.body, {"Content-Length": str(len(reply.body))}
    sent = {
        "Content-Length": str(len(file.data)),
        "Content-Type": file.content_type,
        "ETag": file.etag,
        "Last-Modified": file.modified,
    }
    match = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
    wanted = headers.get("if-range")
    same = not file.if_range or wanted is None or wanted in (file.etag, file.modified)
    if not match or not file.ranges or not same or reply.whole:
        return 200, file.data, sent
    first, size = int(match[1]), len(file.data)
    if first >= size:
        return 416, b"", {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
    sent["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
    sent["Content-Length"] = str(size - first)
    return 206, file.data[first:], sent
