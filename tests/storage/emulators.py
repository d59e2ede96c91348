"""Emulators of object stores, those of Google and Azure where they are installed, and their filesystems."""

from __future__ import annotations

import contextlib
import importlib
import select
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from local_airflow.environment import free_ports
from s3_store import s3_filesystem, s3_server

#: Name and key of the account that Azurite has, which its documentation publishes.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_TIMEOUT_SECONDS = 60.0


@dataclass
class Store:
    """A running store with the container ``bucket``."""

    fs: Any
    #: Its scheme, for messages.
    scheme: str
    counter: CountingProxy
    #: Its address without the counter.
    url: str = ""
    #: Size of a part of an upload, the smallest that every store takes.
    part: int = 5 * 1024 * 1024
    #: The same store with a key that has no rights; ``None`` if the emulator checks none.
    forbidden: Any = None


class CountingProxy(socketserver.ThreadingTCPServer):
    """The way to a server on this machine, which counts the bytes that the server sends."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pipe)
        self.target = ("127.0.0.1", port)
        self.sent = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Pipe(socketserver.BaseRequestHandler):
    server: CountingProxy

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as far, contextlib.suppress(OSError):
            while True:
                for ready in select.select([self.request, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is far:
                        self.server.sent += len(data)
                    (self.request if ready is far else far).sendall(data)


@contextlib.contextmanager
def counted(port: int) -> Iterator[CountingProxy]:
    """Yield a proxy before a server."""
    with CountingProxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@contextlib.contextmanager
def amazon_store() -> Iterator[Store]:
    """Yield the emulator of S3."""
    with s3_server() as url, counted(int(url.rpartition(":")[2])) as proxy:
        fs = s3_filesystem(f"http://127.0.0.1:{proxy.port}")
        fs.call_s3("create_bucket", Bucket="bucket")
        # S3 takes no parts below 5 MiB, which would only cost time here.
        yield Store(fs=fs, scheme="s3", counter=proxy, url=url, part=64 * 1024)


@contextlib.contextmanager
def google_store() -> Iterator[Store]:
    """Yield the emulator of Google Cloud Storage."""
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install gcsfs")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="there is no emulator: pip install gcp-storage-emulator"
    )
    (port,) = free_ports(1)
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    try:
        with counted(port) as proxy:
            fs = gcsfs.GCSFileSystem(
                endpoint_url=f"http://127.0.0.1:{proxy.port}",
                token="anon",
                project="p",
                skip_instance_cache=True,
            )
            # Newer ones ask Google itself, without http, what kind of bucket it is.
            if kind := getattr(importlib.import_module("gcsfs.extended_gcsfs"), "BucketType", None):
                fs._storage_layout_cache["bucket"] = kind.NON_HIERARCHICAL
            fs.mkdir("bucket")
            yield Store(fs=fs, scheme="gs", counter=proxy)
    finally:
        server.stop()


@contextlib.contextmanager
def azure_store() -> Iterator[Store]:
    """Yield the emulator of Azure Blob Storage."""
    adlfs = pytest.importorskip("adlfs", reason="adlfs is not installed: pip install adlfs")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the search path: npm install azurite")
    home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    (port,) = free_ports(1)
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    process = subprocess.Popen(
        [program, *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)],
        cwd=home.name,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        with counted(port) as proxy:

            def filesystem(key: str) -> Any:
                address = f"http://127.0.0.1:{proxy.port}/{AZURE_ACCOUNT}"
                text = f"AccountName={AZURE_ACCOUNT};AccountKey={key};BlobEndpoint={address};"
                return adlfs.AzureBlobFileSystem(
                    connection_string=f"DefaultEndpointsProtocol=http;{text}", skip_instance_cache=True
                )

            fs = filesystem(AZURE_KEY)
            fs.mkdir("bucket")
            yield Store(fs=fs, scheme="abfs", counter=proxy, forbidden=filesystem("bm8gcmlnaHRz"))
    finally:
        process.kill()
        process.wait()
        home.cleanup()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline, "the emulator does not answer"
        time.sleep(0.1)
