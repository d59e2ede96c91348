"""The network between Airflow and a service: connections that can be counted, and a tcp_proxy that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading

from local_airflow.environment import free_ports


class TcpProxy:
    """
    Proxy that forwards connections to a server. While it is cut, existing connections are closed and new ones refused.

    :param port: Of the server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.socket()
        # To listen again beside connections that are not quite gone.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Only an explicit port number is kept by a listener that is shut down.
        self._address = ("127.0.0.1", free_ports(1)[0])
        self._listener.bind(self._address)
        self._listener.listen(256)
        self._lock = threading.Lock()
        self._mended = threading.Event()
        self._mended.set()
        self._closed = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._acceptor = threading.Thread(target=self._accept, name="tcp_proxy", daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """Address of the service for Airflow."""
        return f"http://127.0.0.1:{self._address[1]}"

    @property
    def connections(self) -> int:
        """Number of open connections."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._mended.clear()
        # A listener that is shut down refuses, and keeps its port.
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _shut(*pair)

    def mend(self) -> None:
        """Accept connections again."""
        self._listener.listen(256)
        self._mended.set()

    def close(self) -> None:
        """Break everything, for good."""
        self._closed = True
        if self._mended.is_set():
            self.cut()
        self._mended.set()
        self._listener.close()
        self._acceptor.join(10)

    def _accept(self) -> None:
        while not self._closed:
            self._mended.wait()
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._carry, args=(pair,), name="tcp_proxy", daemon=True).start()
            if not self._mended.is_set():
                _shut(*pair)

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        back = threading.Thread(target=_pump, args=(far, near), name="tcp_proxy", daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        near.close()
        far.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    # A side that has ended closes the other one: HTTP has no half-open connections.
    _shut(source, target)


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
