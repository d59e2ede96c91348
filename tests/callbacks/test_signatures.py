"""Signatures of callbacks: the accepted forms, and refusals."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.callbacks.signatures import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_SIGNATURES,
    SignatureScheme,
    verify_signature,
)

NOW = 1_800_000_000.0
BODY = b'{"task_id": "1"}'
PLAIN = SignatureScheme(header="X-Signature", secret="shared with the service")
TIMED = replace(PLAIN, scheme="hmac-sha256-timestamp")


def digest(message: bytes = BODY, secret: str = PLAIN.secret) -> bytes:
    return hmac.new(secret.encode(), message, hashlib.sha256).digest()


def genuine(
    header: str, *, signing: SignatureScheme = PLAIN, body: bytes = BODY, now: float = NOW, **other: str
) -> bool:
    return verify_signature(signing, {"x-signature": header, **other}, body, now)


@pytest.mark.parametrize(
    "write",
    [
        lambda raw: raw.hex(),
        lambda raw: raw.hex().upper(),
        lambda raw: f"sha256={raw.hex()}",
        lambda raw: f"v1={raw.hex()}",
        lambda raw: f"  {raw.hex()} ",
        lambda raw: base64.b64encode(raw).decode(),
        lambda raw: f"v1={'0' * 64},v1={raw.hex()}",
        lambda raw: f"v1={'0' * 64} v1={base64.b64encode(raw).decode()}",
    ],
)
def test_accepted_forms(write: Callable[[bytes], str]) -> None:
    assert genuine(write(digest()))
    assert not genuine(write(digest(BODY + b" ")))
    assert not genuine(write(digest(secret="another secret")))


def test_the_header_and_its_signatures() -> None:
    assert genuine(digest().hex(), signing=replace(PLAIN, header="x-SIGNATURE"))
    assert PLAIN.secret not in repr(PLAIN)
    assert not verify_signature(PLAIN, {}, BODY, NOW)
    assert not genuine("")
    assert not genuine("sha256=")
    # Only the first signatures are compared.
    many = ",".join(["v1=" + "0" * 64] * (2 * MAX_SIGNATURES))
    assert not genuine(f"{many},{digest().hex()}")


@given(st.binary(), st.text(min_size=1))
def test_the_raw_bytes_are_signed(body: bytes, secret: str) -> None:
    signing = replace(PLAIN, secret=secret)
    mac = hmac.new(secret.encode("utf-8", "replace"), body, hashlib.sha256).hexdigest()
    assert genuine(mac, signing=signing, body=body)
    assert not genuine(mac, signing=signing, body=body + b"\n")


@given(st.text(), st.text(), st.binary(), st.sampled_from([PLAIN, TIMED]))
def test_rubbish_is_never_genuine(header: str, stamp: str, body: bytes, signing: SignatureScheme) -> None:
    assert not verify_signature(signing, {"x-signature": header, "x-timestamp": stamp}, body, NOW)


@given(st.data())
def test_every_changed_character_is_refused(data: st.DataObject) -> None:
    mac = digest().hex()
    position = data.draw(st.integers(0, len(mac) - 1))
    other = data.draw(st.characters().filter(lambda character: character.lower() != mac[position]))
    # Surrounding white space is ignored, and a comma separates signatures.
    changed = mac[:position] + other + mac[position + 1 :]
    assert not genuine(changed)


def timed(stamp: str) -> str:
    return digest(stamp.encode() + b"." + BODY).hex()


def test_accepted_timestamps() -> None:
    stamp, milliseconds = str(int(NOW)), str(int(NOW * 1000))
    assert genuine(timed(stamp), signing=TIMED, **{"x-timestamp": stamp})
    named = replace(TIMED, timestamp_header="Webhook-Time")
    assert genuine(timed(stamp), signing=named, **{"webhook-time": stamp})
    assert genuine(f"t={stamp},v1={timed(stamp)}", signing=TIMED)
    assert genuine(timed(milliseconds), signing=TIMED, **{"x-timestamp": milliseconds})


SKEWS = (-MAX_CLOCK_SKEW_SECONDS - 1, MAX_CLOCK_SKEW_SECONDS + 1, 86400, -86400)
INVALID = ("", "-1", "1e9", "soon", "١٨٠٠", "9" * 14, "9" * 5000, "1800000000.5")


@pytest.mark.parametrize("stamp", [*(str(int(NOW + skew)) for skew in SKEWS), *INVALID])
def test_a_replay_and_an_invalid_timestamp_are_refused(stamp: str) -> None:
    assert not genuine(timed(stamp), signing=TIMED, **{"x-timestamp": stamp})


@pytest.mark.parametrize(
    "write", [lambda raw: base64.urlsafe_b64encode(raw).decode(), lambda raw: f"v0={raw.hex()}"]
)
def test_forms_that_no_service_uses_are_refused(write: Callable[[bytes], str]) -> None:
    # A body whose digest differs between the two base64 alphabets.
    bodies = [b"%d" % number for number in range(99)]
    body = next(body for body in bodies if b"-" in base64.urlsafe_b64encode(digest(body)))
    assert genuine(base64.b64encode(digest(body)).decode(), body=body)
    assert not genuine(write(digest(body)), body=body)


def test_the_timestamp_is_signed() -> None:
    stamp = str(int(NOW))
    assert not genuine(timed(stamp), signing=TIMED, **{"x-timestamp": str(int(NOW) + 1)})
    assert not genuine(digest().hex(), signing=TIMED, **{"x-timestamp": stamp})
    assert not genuine(timed(stamp), signing=PLAIN, **{"x-timestamp": stamp})
