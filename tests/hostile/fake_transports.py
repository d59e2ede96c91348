"""Hostile servers on raw sockets, one script for each misbehaviour."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Iterator

Script = Callable[[socket.socket], None]

#: Limit of the steps of a script; the client should have disconnected long before.
STEPS = 400
_gap = threading.Event()


def read_request(peer: socket.socket) -> None:
    """Read a request, so that its end is seen."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = peer.recv(65536)
        if not chunk:
            return
        data += chunk


def drip(peer: socket.socket, pieces: Iterator[bytes] | list[bytes], gap: float = 0.05) -> None:
    """Send pieces, one now and then, until the peer disconnects."""
    for piece in pieces:
        peer.sendall(piece)
        _gap.wait(gap)


def head(status: str = "200 OK", *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


def endless_interim(peer: socket.socket) -> None:
    """One interim response after the other, and never the answer."""
    read_request(peer)
    drip(peer, [b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(STEPS)])


def dripping_status_line(peer: socket.socket) -> None:
    read_request(peer)
    drip(peer, [b"HTTP/1.1 200 ", *[b"O" for _ in range(STEPS)]])


def dripping_headers(peer: socket.socket) -> None:
    read_request(peer)
    drip(peer, [b"HTTP/1.1 200 OK\r\n", *[f"X-{number}: a\r\n".encode() for number in range(STEPS)]])


def dripping_chunk_size(peer: socket.socket) -> None:
    read_request(peer)
    drip(peer, [head("200 OK", "Transfer-Encoding: chunked"), b"5;", *[b"a" for _ in range(STEPS)]])


def dripping_zeros(peer: socket.socket) -> None:
    """A packed body of which nothing comes out: the name in its head has no end."""
    read_request(peer)
    start = [head("200 OK", "Transfer-Encoding: chunked", "Content-Encoding: gzip")]
    drip(peer, [*start, b"a\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3\r\n", *[b"1\r\na\r\n" for _ in range(STEPS)]])


def header_flood(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(STEPS * 10):
        peer.sendall(f"X-{number}: {'a' * 1000}\r\n".encode())


def one_huge_header(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    for _ in range(STEPS):
        peer.sendall(b"a" * 10_000)


def endless_body(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK"))
    for _ in range(STEPS * 10):
        peer.sendall(b" " * 10_000)


def says_more_than_it_sends(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK", "Content-Length: 1000000") + b"{}")


def two_lengths(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK", "Content-Length: 2", "Content-Length: 3") + b"{}")


def a_negative_length(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK", "Content-Length: -2") + b"{}")


def a_length_beyond_numbers(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK", f"Content-Length: {'9' * 30}") + b"{}")


def a_broken_chunk(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("200 OK", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n")


def a_status_beyond_numbers(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(head("99999 OK"))


def switching_protocols(peer: socket.socket) -> None:
    read_request(peer)
    peer.sendall(
        head("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade") + b"\x81\x05hello"
    )


def another_protocol(peer: socket.socket) -> None:
    peer.sendall(b"220 mail.example ESMTP\r\n" * 3)


def two_answers(peer: socket.socket) -> None:
    """The second answers a request that was never made."""
    read_request(peer)
    peer.sendall(2 * (head("204 No Content", "Content-Length: 0")))


def packed(body: bytes, encoding: str) -> Script:
    def script(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(head("200 OK", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}") + body)

    return script


def bomb(megabytes: int = 100) -> bytes:
    """Return some kilobytes that unpack to many megabytes."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(b"\0" * 2**20) for _ in range(megabytes)), packer.flush()])


gzip_bomb = packed(bomb(), "gzip")
gzip_in_gzip = packed(gzip.compress(bomb(20)), "gzip, gzip")
an_unknown_codec = packed(b"{}", "zstd")
torn_gzip = packed(gzip.compress(b'{"a": 1}' * 1000)[:-20], "gzip")

#: What never ends, or takes its time.
SLOW = [endless_interim, dripping_status_line, dripping_headers, dripping_chunk_size, dripping_zeros]
#: What is too much, or wrong.
WRONG = [
    header_flood,
    one_huge_header,
    says_more_than_it_sends,
    two_lengths,
    a_negative_length,
    a_length_beyond_numbers,
    a_broken_chunk,
    a_status_beyond_numbers,
    switching_protocols,
    another_protocol,
]
