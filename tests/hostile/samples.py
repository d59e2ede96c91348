"""Samples and words for the readers of untrusted bytes in :mod:`hostile.targets`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from helpers import FIXTURES

DICTIONARY = Path(__file__).with_name("words.dict")

#: The words of libFuzzer's dictionary.
WORDS = re.findall('^"(.+)"$', DICTIONARY.read_text(encoding="ascii"), re.MULTILINE)

_MORE = [
    b'{"code": 200, "data": {"task_id": "t1", "status": "IN_PROGRESS"}}',
    b'{"code": 200, "data": {"task_id": "t1", "status": "SUCCESS", "response": ["https://a.b/c.mp4"]}}',
    b'{"run_id": "r1", "status": "completed", "output": {"urls": ["https://a.b/c.mp4"]}, "costUsd": "1"}',
    b'{"error": {"code": "X", "message": "no"}}',
    b'{"items": [{"id": "cgt-1", "status": "queued", "safety_identifier": "airflow-1"}], "total": 1}',
    b'{"outcome": "ended", "generation_id": "cgt-1", "result": {"generation_id": "cgt-1", "api": "ark", '
    b'"media": "video", "status": "succeeded", "urls": ["https://a.b/c"]}}',
    b'{"api": "ark", "timeout": 5, "media_hosts": ["a"], "verify": "false", "proxy": "http://p:1"}',
    b"retry-after: Sat, 07 Feb 2026 10:41:00 GMT\nx-ratelimit-limit: 10\nx-ratelimit-remaining: 3\n"
    b"x-ratelimit-reset: 1770460860",
    b"https://a.example/b.mp4?sig=1\nhttps://127.0.0.1/",
    b"data:video/mp4;base64,AAAA",
    b'{"key": "a", "name": "a.mp4", "generation_id": "g", "index": 1, "bytes": 3, "sha256": null, '
    b'"tag": null, "by": null}\n',
    b"key,prompt,duration\na,A lamp,5\n",
    b'{"key": "a", "generation_id": "cgt-1", "api": "ark", "media": "video", "status": "succeeded", '
    b'"model": "m", "urls": ["https://a.b/c"], "duration": 5, "resolution": "720p", "credits": 1.5, '
    b'"cost_usd": 0.5, "created_at": null, "expires_at": null}\n',
]


def documented_samples() -> list[bytes]:
    """Return every documented sample, as published and in one line, and some of the package's own formats."""
    samples = [path.read_bytes() for path in sorted(FIXTURES.glob("*.json"))]
    return [*samples, *(json.dumps(json.loads(sample)).encode() for sample in samples), *_MORE]
