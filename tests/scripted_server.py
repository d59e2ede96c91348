"""HTTP server of raw sockets that follows a script on each connection."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from helpers import settings

from airflow_provider_seedance.settings import Settings

#: Speaks on one accepted connection; what it returns is kept with the server.
Script = Callable[[socket.socket], Any]


def receive(peer: socket.socket) -> bytes:
    """Read one whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = peer.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head_of(data)[1].get("content-length", 0))
    while len(body) < length:
        body += peer.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(status: int = 200, body: bytes = b"{}", headers: str = "") -> bytes:
    """Write a response."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def replies(raw: bytes) -> Script:
    """Answer one request and close."""

    def script(peer: socket.socket) -> bytes:
        request = receive(peer)
        peer.sendall(raw)
        return request

    return script


def keeps(*raw: bytes) -> Script:
    """Answer requests one after the other on one connection, as long as the client keeps it."""

    def script(peer: socket.socket) -> list[bytes]:
        requests = []
        for response in raw:
            request = receive(peer)
            if not request:
                break
            requests.append(request)
            peer.sendall(response)
        return requests

    return script


def reset(peer: socket.socket) -> None:
    """End a connection with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(peer: socket.socket) -> None:
    receive(peer)
    peer.recv(1)


class Server:
    """Server on a port of its own that follows one script per connection; the last one repeats."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.seen: list[Any] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v2"
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            thread = threading.Thread(target=self._serve, args=(peer, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket, script: Script) -> None:
        with peer:
            peer.settimeout(5)
            try:
                seen = script(peer)
            except OSError as error:
                seen = error
            self.seen.append(seen)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for thread in (self._thread, *self._threads):
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def serving(*scripts: Script) -> Iterator[Server]:
    server = Server(*scripts)
    try:
        yield server
    finally:
        server.close()


def at_once(check: Callable[[Any], None], cases: Mapping[str, Any]) -> None:
    """Check all cases at the same time, where each of them waits; a failure names its case."""

    def run(name: str) -> None:
        try:
            check(cases[name])
        except BaseException as error:
            error.add_note(f"Case: {name}")
            raise

    with ThreadPoolExecutor(len(cases)) as threads:
        list(threads.map(run, cases))


def at(server: Server, **extra: Any) -> Settings:
    return settings(server.url, **{"timeout": 10, **extra})


def head_of(request: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in headers}
