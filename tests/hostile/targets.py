"""
Readers of untrusted bytes as functions, shared by the property tests and the fuzzer.

A target returns if the bytes became a result, "still running", or an error of this package; all else is a finding.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpcore
from helpers import ALL_APIS, NOW, connection, image, prepare, video
from support import Store

from airflow_provider_seedance import urls
from airflow_provider_seedance.apis.messages import (
    Accepted,
    HttpCall,
    HttpReply,
    NotAccepted,
    Refused,
    TransportFailure,
    Uncertain,
)
from airflow_provider_seedance.apis.rate_limits import RateLimit, read_rate_limit
from airflow_provider_seedance.apis.registry import get_api
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.batch.batch import Batch
from airflow_provider_seedance.batch.items import BatchItem, Phase, Totals
from airflow_provider_seedance.client import media_client
from airflow_provider_seedance.client.flows import cancel_flow, look_up_flow, probe_flow
from airflow_provider_seedance.exceptions import SeedanceConfigurationError, SeedanceError
from airflow_provider_seedance.generations import Generation, GenerationStatus
from airflow_provider_seedance.ledger.task_state import STATE_KEY, TaskStateStore
from airflow_provider_seedance.polling.quota import Quota
from airflow_provider_seedance.settings import read_settings
from airflow_provider_seedance.storage.jsonl import parse_lines
from airflow_provider_seedance.submission import records
from airflow_provider_seedance.submission.decisions import SubmissionPolicy
from airflow_provider_seedance.transfers import file_names, inputs
from airflow_provider_seedance.transfers.download import Source, store_data_url
from airflow_provider_seedance.triggers.events import read_batch_event, read_event
from hostile.samples import documented_samples

STATUSES = (200, 200, 200, 200, 201, 202, 204, 302, 307, 400, 401, 402, 403, 404, 408, 409, 410)
STATUSES += (413, 422, 425, 429, 429, 451, 500, 502, 503, 503, 504, 520, 524, 599, 600, 199)

#: Separates the replies of one conversation. It cannot occur in JSON.
SEPARATOR = b"\x1e"

_PREPARED = {
    (name, request.media): prepare(name, request).request
    for name in ALL_APIS
    for request in (video(), image())
    if request.media == "video" or name in ("seedance2api", "ark")
}
_KINDS = sorted(_PREPARED)


_TRY = records.Attempt(fingerprint=records.NO_REQUEST, max_tries=0, try_number=1)
_ENDED = records.Record(
    state=records.RecordState.ENDED,
    fingerprint=records.NO_REQUEST,
    max_tries=0,
    try_number=1,
    generation_id="cgt-1",
    status=GenerationStatus.SUCCEEDED,
    submitted_at=NOW,
    ended_at=NOW,
)

#: An escaped NUL, but not an escaped backslash before "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_storable(value: Any) -> None:
    """Check that a value can go into XCom, a record and a trigger's row on every database."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()  # API servers reject unpaired surrogates
    assert not _NUL.search(text), "PostgreSQL stores no NUL in JSON"


def check_error(error: SeedanceError) -> None:
    """Check that an error can be shown and stored."""
    assert error.message
    str(error).encode()
    check_storable({**error.details(), "message": error.message})
    assert error.retry_after is None or 0 <= error.retry_after <= 86400


@contextmanager
def refusals() -> Iterator[None]:
    """Accept an error of the package that can be shown and stored."""
    try:
        yield
    except SeedanceError as error:
        check_error(error)


def check_generation(generation: Generation) -> None:
    check_storable(generation.result())
    check_storable([generation.error_message, generation.error_code, generation.word])
    assert bool(generation.urls) <= (generation.status.value == "succeeded")
    assert Generation.from_result(json.loads(json.dumps(generation.result()))).result() == generation.result()
    generation.summary()


def _head(data: bytes) -> tuple[int, int, bytes]:
    """Return the first two bytes, which choose a case, and the rest."""
    first, second = (data[:2] + b"\0\0")[:2]
    return first, second, data[2:]


def _reply(data: bytes) -> HttpReply | TransportFailure:
    """Return a reply: one byte of status, header lines up to an empty one after a tab, and the body."""
    if not data:
        return TransportFailure("reset", sent=True)
    status, rest = STATUSES[data[0] % len(STATUSES)], data[1:]
    headers: dict[str, str] = {}
    if rest[:1] == b"\t":
        head, _, rest = rest[1:].partition(b"\n\n")
        for line in head.decode("latin-1").split("\n"):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    return HttpReply(status, headers, rest)


def _replies(data: bytes) -> Iterator[HttpReply | TransportFailure]:
    for part in data.split(SEPARATOR):
        yield _reply(part)


def _converse(flow: Any, data: bytes) -> Any:
    """Drive a flow with these replies, over and over, to find a flow that never ends."""
    parts = list(_replies(data))
    reply: Any = None
    with refusals():
        try:
            for number in range(100):
                step = flow.send(reply)
                reply = parts[number % len(parts)] if isinstance(step, HttpCall) else None
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the flow does not end")


def submit_reply(data: bytes) -> None:
    which, _, rest = _head(data)
    name, kind = _KINDS[which % len(_KINDS)]
    api, request = get_api(name), _PREPARED[name, kind]
    reply = _reply(rest)
    outcome = api.read_submit(reply, api.submit_call(request), request, NOW)
    if isinstance(outcome, Accepted):
        assert isinstance(reply, HttpReply)
        assert 200 <= reply.status < 300
        assert outcome.generation.generation_id
        check_generation(outcome.generation)
        api.status_call(outcome.generation.generation_id)
        return
    assert isinstance(outcome, (NotAccepted, Refused, Uncertain))
    check_error(outcome.error)


def status_reply(data: bytes) -> None:
    which, _, rest = _head(data)
    api = get_api(ALL_APIS[which % len(ALL_APIS)])
    result = _converse(api.status_flow("cgt-1", "video", NOW), rest)
    if result is not None:
        check_generation(result)
        assert result.generation_id == "cgt-1"


def status_list_reply(data: bytes) -> None:
    result = _converse(get_api("ark").status_many_flow(["cgt-1", "cgt-2"], NOW), data)
    for name, generation in (result or {}).items():
        assert name in ("cgt-1", "cgt-2")
        check_generation(generation)


def other_replies(data: bytes) -> None:
    """Look a submission up, cancel it, and test the connection."""
    which, kind, rest = _head(data)
    api = get_api(ALL_APIS[which % len(ALL_APIS)])
    if kind % 3 == 0:
        found = _converse(look_up_flow(api, "airflow-1", NOW - timedelta(hours=1), lambda: NOW), rest)
        assert found is None or isinstance(found, str)
    elif kind % 3 == 1:
        done = _converse(cancel_flow(api, "cgt-1", "video", lambda: NOW), rest)
        assert done is None or done.reason
    else:
        _converse(probe_flow(api, lambda: NOW), rest)


def quota_headers(data: bytes) -> None:
    """Read rate-limit headers into a quota."""
    quota, now = Quota(requests_per_hour=100), NOW.timestamp()
    for number, part in enumerate(data.split(SEPARATOR)[:10]):
        reply = _reply(b"\0\t" + part)
        assert isinstance(reply, HttpReply)
        limit = read_rate_limit(reply.headers, NOW)
        assert isinstance(limit, RateLimit)
        assert limit.reset_at is None or limit.reset_at.tzinfo
        assert limit.retry_after is None or 0 <= limit.retry_after <= 86400
        moment = now + number
        if part[:1] == b"r":
            quota.refuse(limit.retry_after, moment)
        else:
            quota.learn(limit, moment)
        quota.spend(moment)
        assert quota.free(moment) >= 0
        assert quota.reserved_for_submissions(moment) >= 0
        assert 1 <= quota.interval_factor(moment, 3) <= 10
        assert quota.rate >= 0
        assert moment <= quota.opens_at(moment)
        quota.as_rate_limit()


def manifest_lines(data: bytes) -> None:
    with refusals():
        assert all(isinstance(line["key"], str) for line in parse_lines(data, "s3://bucket/manifest.jsonl"))


def connection_extra(data: bytes) -> None:
    """Read the extra of a connection, and its host before a tab."""
    host, tab, rest = data.decode("utf-8", "surrogateescape").rpartition("\t")
    try:
        found = read_settings("seedance_default", connection(host=host if tab else None, extra=rest))
    except SeedanceConfigurationError as error:
        assert "sk-live" not in str(error)
        return
    assert found.base_url.startswith(("http://", "https://"))
    assert "sk-live" not in repr(found)
    assert found.call_timeout > 0


def _json(data: bytes) -> Any:
    return HttpReply(200, {}, data).json


def callback_body(data: bytes) -> None:
    """Read the body of a callback, and the event of a trigger."""
    which, _, rest = _head(data)
    body = _json(rest)
    if isinstance(body, dict):
        api = get_api(ALL_APIS[which % len(ALL_APIS)])
        check_generation(api.read_generation(body, api.find_id(body) or "cgt-1", media="video", now=NOW))
        api.read_error(body)
        api.is_service_error(body)
    if (generation := read_event(body, "cgt-1")) is not None:
        assert generation.generation_id == "cgt-1"
        assert generation.status.terminal
    for _, generation in read_batch_event(body).ended:
        assert generation.status.terminal


def stored_record(data: bytes) -> None:
    """Read the record of a submission, and a group of records."""
    value = _json(data)
    with refusals():
        records.Record.from_value(value).as_dict()
    if isinstance(value, dict):
        store = Store()
        store.texts[STATE_KEY] = json.dumps({"groups": 1, **value})
        with refusals():
            TaskStateStore(store).load()


def transfer_input(data: bytes) -> None:
    value = _json(data)
    reads_a_file = isinstance(value, str) and inputs.is_path(value)
    if not reads_a_file and not (isinstance(value, dict) and value.get("manifest")):
        with refusals():
            inputs.read_input(value)


def manifest_recovery(data: bytes) -> None:
    """Read results back from a manifest that were too large for the records."""
    item = BatchItem(key="a", arguments={}, record_key="n", generation_id="cgt-1")
    item.phase = Phase.RESULT_PENDING
    store = TaskStateStore(None)
    store.update("n", _ENDED)
    batch = Batch(
        connections={},
        records=store,
        items=[item],
        policy=SubmissionPolicy(),
        timeout=10.0,
        reattached_at=NOW.timestamp(),
        attempt=_TRY,
        deferrable=True,
        max_quota_wait=1.0,
    )
    with refusals():
        batch.load_from_manifest(parse_lines(data, "s3://bucket/manifest.jsonl"))
    assert item.phase in (Phase.RESULT_PENDING, Phase.SUCCEEDED), "a line fails no item"
    assert (item.phase is Phase.SUCCEEDED) == (item.generation is not None)
    assert store.committed("credits") >= 0
    totals = Totals.of([item])
    totals.summary()
    totals.progress(seconds=1.0, ended_before=0)
    check_storable([item.line(), item.result(), totals.counts(), totals.credits, totals.cost_usd])


def request_file(data: bytes) -> None:
    which, _, rest = _head(data)
    text, problems = rest.decode("utf-8", "replace"), list[str]()
    read = requests._rows(text, problems) if which % 2 else requests._lines(text)
    found = [entry for _, entry in read]
    with refusals():
        requests.read_requests(found)


def output_url(data: bytes) -> None:
    """Check the URL of an output and of a redirect, and the file names from it."""
    hosts = urls.MediaHosts()
    text = data.decode("utf-8", "replace")
    urls.redact_url(text)
    file_names.extension_of_url(text)
    if text.startswith("data:"):
        source = Source(label="it", generation_id="g", url=text, refresh=lambda: text)
        with refusals():
            store_data_url(source, lambda announced: None, max_bytes=1_000_000)
    url, _, location = text.partition("\n")
    with suppress(media_client.MediaAddressError):
        for _ in range(2):
            address = media_client._Address.of(url)
            if urls.media_url_problem(address.url, hosts) is None:
                _check_harmless(address)
            # Header values are Latin-1.
            url = media_client._follow(address.url, location.encode().decode("latin-1"))
    with suppress(SeedanceConfigurationError):
        urls.normalize_base_url(text)


def _check_harmless(address: media_client._Address) -> None:
    """Check that the connection goes to the validated host, which is public, without a user name."""
    target = address.target
    assert target.scheme == b"https"
    host = target.host.decode("ascii")
    assert host
    assert "@" not in address.host_header
    assert str(urlsplit(address.url).hostname).lower() == host.lower()
    for numeric in ("127.0.0.1", "10.", "169.254.169.254", "::1", "0x", "localhost"):
        if numeric == host or (numeric in ("10.", "0x") and host.startswith(numeric)):
            last = host.rstrip(".").rpartition(".")[2]
            assert set(last) - set(string.hexdigits + "x"), host
    assert not host.endswith(".localhost")
    assert isinstance(httpcore.Request("GET", target).url, httpcore.URL)
    assert not set(bytes(target.target)) & set(b"\r\n \0")


def file_name(data: bytes) -> None:
    """Make file names from hostile ids, keys and models."""
    parts = [part.decode("utf-8", "replace") for part in data.split(SEPARATOR)]
    values = {"generation_id": parts[0], "model": parts[-1], "key": parts[len(parts) // 2]}
    for template in ("{generation_id}.{ext}", "{generation_id}/{model}-{index}.{ext}", "{key}.{ext}"):
        naming = file_names.Naming(template=template, values=values, count=2)
        try:
            made = naming.name(1, "mp4")
        except SeedanceConfigurationError:
            continue
        segments = made.split("/")
        assert len(segments) == (2 if "/" in template else 1)
        assert not {"", ".", ".."} & set(segments)
        assert "\\" not in made
        assert "\0" not in made


TARGETS: tuple[Callable[[bytes], None], ...] = (
    submit_reply,
    status_reply,
    status_list_reply,
    other_replies,
    quota_headers,
    manifest_lines,
    connection_extra,
    callback_body,
    stored_record,
    transfer_input,
    request_file,
    output_url,
    file_name,
    manifest_recovery,
)


def seeds() -> list[bytes]:
    """Return seed inputs: every sample for every reader."""
    found = []
    for number, target in enumerate(TARGETS):
        for which, sample in enumerate(documented_samples()):
            head = bytes([number])
            if target in (submit_reply, status_reply, other_replies, callback_body):
                head += bytes([which % 10, which % 3])
            if target is request_file:
                head += b"\0\0" if sample[:1] == b"{" else b"\1\0"
            if target in (submit_reply, status_reply, status_list_reply, other_replies):
                head += b"\0"
            found.append(head + sample)
    return found


def run(data: bytes) -> None:
    """Run the target that the first byte names on the others."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
