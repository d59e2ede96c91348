"""Callback tokens: their claims, their verification, and what they refuse."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer
from itsdangerous.encoding import base64_encode

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.callbacks.tokens import (
    CallbackClaims,
    callback_url,
    decode_unverified,
    sign,
    verify,
)

SECRET = "a secret that is long enough"
CLAIMS = CallbackClaims(
    dag_id="dag", run_id="run", task_id="task", map_index=-1, conn_id="seedance", nonce="n", expires=1000
)

# Text that a database can store: no surrogates.
names = st.text(st.characters(codec="utf-8"), max_size=250)
claims_values = st.builds(
    CallbackClaims,
    dag_id=names,
    run_id=names,
    task_id=names,
    map_index=st.integers(-1, 10_000),
    conn_id=names,
    nonce=names,
    expires=st.integers(0, 10**11),
    region_id=st.sampled_from(["", "0f" * 16]),
    team=st.text(st.characters(codec="utf-8"), max_size=50),
)


def signed(payload: str) -> str:
    """Sign a payload that `sign` would not make."""
    return tokens._signer(SECRET).sign(base64_encode(payload)).decode()


def is_refused(token: str) -> bool:
    return decode_unverified(token) is None and not verify(token, SECRET, 0)


@given(claims_values, st.text(min_size=1), st.text())
def test_a_signed_token_verifies_until_it_expires(claims: CallbackClaims, secret: str, other: str) -> None:
    token = sign(claims, secret)
    assert decode_unverified(token) == claims
    assert verify(token, secret, claims.expires - 1)
    assert not verify(token, secret, claims.expires)
    # Surrogates are encoded as question marks, on both sides.
    if secret.encode("utf-8", "replace") != other.encode("utf-8", "replace"):
        assert not verify(token, other, 0)
    # It fits in one path segment.
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert len(token) <= tokens.MAX_TOKEN_CHARS


@pytest.mark.parametrize(
    "name", ["\U0001f3ac" * 250, "manual__2026-01-01T00:00:00+00:00", "a/b/../c", "a b?c=d#e%2F", "ünï"]
)
def test_long_and_odd_names_fit(name: str) -> None:
    names = dict.fromkeys(("dag_id", "run_id", "task_id", "conn_id", "nonce"), name)
    token = sign(claims := replace(CLAIMS, **names), SECRET)
    assert len(token) <= tokens.MAX_TOKEN_CHARS
    assert verify(token, SECRET, 0)
    assert decode_unverified(token) == claims


@given(st.data())
def test_changed_truncated_and_extended_tokens_are_refused(data: st.DataObject) -> None:
    token = sign(CLAIMS, SECRET)
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[position]))
    for changed in (token[:position] + other + token[position + 1 :], token[:position], token + other):
        assert not verify(changed, SECRET, 0)


@pytest.mark.parametrize("secret", ["", "none"])
def test_without_a_secret_nothing_verifies(secret: str) -> None:
    """Not even a token signed with the placeholder for a missing secret."""
    token = sign(CLAIMS, secret)
    assert not verify(token, None, 0)
    assert not verify(token, "", 0)


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))))
def test_rubbish_has_no_claims_and_does_not_verify(token: str) -> None:
    assert is_refused(token)
    assert not verify(token, None, 0)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_other_json_has_no_claims(value: Any) -> None:
    assert is_refused(signed(json.dumps(value)))


SHAPE = ["dag", "run", "task", -1, "seedance", "n", 1000, "", ""]


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(SHAPE[:-1]),
        json.dumps([*SHAPE, ""]),
        json.dumps([*SHAPE[:3], True, *SHAPE[4:]]),
        json.dumps([*SHAPE[:6], 1000.0, *SHAPE[7:]]),
        json.dumps([*SHAPE[:2], None, *SHAPE[3:]]),
        json.dumps([["dag"], *SHAPE[1:]]),
        "[" * 4000,
        "9" * 5000,
        json.dumps(SHAPE) + " " * tokens.MAX_TOKEN_CHARS,
    ],
    ids=lambda payload: payload[:60],
)
def test_a_signed_payload_of_another_shape_has_no_claims(payload: str) -> None:
    assert decode_unverified(signed(json.dumps(SHAPE))) == CLAIMS
    assert is_refused(signed(payload))


@pytest.mark.parametrize("base", ["https://airflow.example.com", "https://airflow.example.com/"])
def test_callback_url(base: str) -> None:
    token = sign(CLAIMS, SECRET)
    assert SECRET not in token
    assert callback_url(base, token) == f"https://airflow.example.com/seedance/callbacks/{token}"
    assert urlsplit(callback_url(base, token)).path.rpartition("/")[2] == token
    assert callback_url(f"{base}x", "t").endswith("x/seedance/callbacks/t")


def test_a_compressed_token_is_refused_before_it_is_decompressed() -> None:
    """itsdangerous' URLSafeSerializer marks a compressed payload with a leading dot, and decompresses without a bound."""
    compressed = base64_encode(zlib.compress(b" " * 10_000_000)).decode()
    assert is_refused(f".{compressed}.x")
    token = URLSafeSerializer(SECRET, salt=tokens._SALT).dumps(["dag" * 100, *SHAPE[1:]])
    assert token.startswith(".")
    assert is_refused(token)


def test_another_spelling_of_the_signature_is_refused() -> None:
    """The last character of a signature has two unused bits, so that four spellings decode to the same bytes."""
    token = sign(CLAIMS, SECRET)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for character in alphabet.replace(token[-1], ""):
        assert not verify(token[:-1] + character, SECRET, 0)
    assert not verify(token + "=", SECRET, 0)
