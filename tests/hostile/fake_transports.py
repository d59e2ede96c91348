"""Hostile servers on raw sockets, one script for each misbehaviour."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Iterable

from scripted_server import receive

Script = Callable[[socket.socket], None]

#: Limit of the steps of a script; the client should have disconnected long before.
STEPS = 400

#: Seconds between the pieces of a slow script.
GAP = 0.05
_gap = threading.Event()


def head(status: str = "200 OK", *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


def sends(*pieces: bytes, gap: float = 0.0) -> Script:
    """Read a request, and send pieces until the client disconnects."""

    def script(peer: socket.socket) -> None:
        receive(peer)
        for piece in pieces:
            peer.sendall(piece)
            if gap:
                _gap.wait(gap)

    return script


def drips(first: bytes, rest: Iterable[bytes], gap: float = GAP) -> Script:
    return sends(first, *rest, gap=gap)


def packed(body: bytes, encoding: str) -> Script:
    return sends(head("200 OK", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}") + body)


def bomb(megabytes: int = 100) -> bytes:
    """Return some kilobytes that unpack to many megabytes."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(b"\0" * 2**20) for _ in range(megabytes)), packer.flush()])


SLOW_HEADS: dict[str, Script] = {
    "interim responses": drips(b"", [head("100 Continue")] * STEPS),
    "status line": drips(b"HTTP/1.1 200 ", [b"O"] * STEPS),
    "headers": drips(b"HTTP/1.1 200 OK\r\n", (f"X-{number}: a\r\n".encode() for number in range(STEPS))),
}
SLOW: dict[str, Script] = {
    **SLOW_HEADS,
    "body": drips(head("200 OK", "Content-Length: 100000"), [b" "] * STEPS),
    "chunk size": drips(head("200 OK", "Transfer-Encoding: chunked"), [b"5;", *[b"a"] * STEPS]),
    # The file name in the gzip header has no end, so the body unpacks to nothing.
    "gzip header": drips(
        head("200 OK", "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        [b"a\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3\r\n", *[b"1\r\na\r\n"] * STEPS],
    ),
}

SLOW_FILE = drips(head("200 OK", "Content-Length: 100000"), [b"a"] * STEPS, gap=0.02)

#: Too large, or invalid.
WRONG: dict[str, Script] = {
    "many headers": sends(
        b"HTTP/1.1 200 OK\r\n", *(f"X-{number}: {'a' * 1000}\r\n".encode() for number in range(STEPS * 10))
    ),
    "large header": sends(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"a" * 10_000] * STEPS),
    "short body": sends(head("200 OK", "Content-Length: 1000000") + b"{}"),
    "two lengths": sends(head("200 OK", "Content-Length: 2", "Content-Length: 3") + b"{}"),
    "negative length": sends(head("200 OK", "Content-Length: -2") + b"{}"),
    "huge length": sends(head("200 OK", f"Content-Length: {'9' * 30}") + b"{}"),
    "broken chunk": sends(head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n"),
    "huge status": sends(head("99999 OK")),
    "switched protocol": sends(
        head("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade") + b"\x81\x05hello"
    ),
    # It greets before the client has sent anything.
    "another protocol": lambda peer: peer.sendall(b"220 mail.example ESMTP\r\n" * 3),
}

BOMBS: dict[str, Script] = {
    "gzip": packed(bomb(), "gzip"),
    "gzip in gzip": packed(gzip.compress(bomb(20)), "gzip, gzip"),
}
