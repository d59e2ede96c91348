"""
Minimal status server: three services, thousands of renders, and counters of the requests.

It runs in a process of its own, so that its cost does not count as the triggerer's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from urllib.parse import parse_qs, urlsplit

_URL = "https://media.example/video.mp4"


class StatusServer:
    """
    Server of ``/seedance2api``, ``/runbase`` and ``/ark``, which answers with a 404 until the end at ``/unless-404``.

    ``/finish`` ends every render, ``/reset`` restarts them and resets the counters, ``/counts`` returns the requests by
    method, the number of statuses sent as ``read``, and the number of different renders as ``renders``.
    """

    def __init__(self) -> None:
        self.finished = False
        self.counts: Counter[str] = Counter()
        self.renders: set[tuple[str, str]] = set()

    def answer(self, method: str, target: str) -> object:
        """Return the body of a reply; ``None`` for a 404."""
        url = urlsplit(target)
        service, _, rest = url.path.lstrip("/").partition("/")
        if service == "finish":
            self.finished = True
            return {}
        if service == "reset":
            self.finished = False
            self.counts.clear()
            self.renders.clear()
            return {}
        if service == "counts":
            return {**self.counts, "renders": len(self.renders)}
        self.counts[method] += 1
        ids = parse_qs(url.query).get("filter.task_ids", [rest.rpartition("/")[2]])
        self.counts["read"] += len(ids)
        self.renders.update((service, name) for name in ids)
        if service == "unless-404":
            return {} if self.finished else None
        if service == "ark":
            tasks = [self._ark(name) for name in ids]
            return {"total": len(tasks), "items": tasks} if url.query else tasks[0]
        if service == "runbase":
            done = {"status": "succeeded", "output": {"urls": [_URL]}}
            return {"id": ids[0], **(done if self.finished else {"status": "running"})}
        if rest.startswith("results/"):
            return {"task_id": ids[0], "status": "completed", "result": {"video_url": _URL, "duration": 5}}
        return {"task_id": ids[0], "status": "completed" if self.finished else "processing"}

    def _ark(self, name: str) -> dict[str, object]:
        if self.finished:
            return {"id": name, "status": "succeeded", "content": {"video_url": _URL}}
        return {"id": name, "status": "running"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                answer = self.answer(method, target)
                status = b"404 Not Found" if answer is None else b"200 OK"
                body = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main() -> None:
    """Listen at a free port of the loopback interface, and say at which."""
    server = await asyncio.start_server(StatusServer().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
