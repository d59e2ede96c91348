"""An S3 API in this process, and the filesystem that speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server, and yield its address."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def s3_filesystem(endpoint: str, key: str = "test", secret: str = "test") -> Any:
    return S3FileSystem(
        key=key,
        secret=secret,
        endpoint_url=endpoint,
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )
