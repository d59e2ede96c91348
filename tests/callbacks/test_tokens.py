"""The addresses: what they carry, what proves them, and that nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.callbacks import tokens
from airflow_provider_seedance.callbacks.tokens import (
    CallbackClaims,
    address,
    decode_unverified,
    proves,
    sign,
)

SECRET = "a secret that is long enough"
TICKET = CallbackClaims(
    dag_id="dag", run_id="run", task_id="task", map_index=-1, conn_id="seedance", nonce="n", expires=1000
)

# What a database can hold, which no half of a character is.
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=250)
tickets = st.builds(
    CallbackClaims,
    dag_id=names,
    run_id=names,
    task_id=names,
    map_index=st.integers(-1, 10_000),
    conn_id=names,
    nonce=names,
    expires=st.integers(0, 10**11),
)


@given(tickets, st.text(min_size=1))
def test_what_was_signed_is_claimed_and_proved_until_it_expires(ticket: CallbackClaims, secret: str) -> None:
    token = sign(ticket, secret)
    assert decode_unverified(token) == ticket
    assert proves(token, secret, ticket.expires - 1)
    assert not proves(token, secret, ticket.expires)


@given(tickets)
def test_a_token_fits_into_one_segment_of_a_path(ticket: CallbackClaims) -> None:
    token = sign(ticket, SECRET)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert len(token) <= tokens.LONGEST


def test_the_longest_names_fit() -> None:
    longest = "\U0001f3ac" * 250
    token = sign(
        replace(TICKET, dag_id=longest, run_id=longest, task_id=longest, conn_id=longest, nonce=longest),
        SECRET,
    )
    assert len(token) <= tokens.LONGEST
    assert proves(token, SECRET, 0)


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00+00:00", "a/b/../c", "a b?c=d#e%2F", "ünï"])
def test_odd_run_ids(run_id: str) -> None:
    ticket = replace(TICKET, run_id=run_id)
    assert decode_unverified(sign(ticket, SECRET)) == ticket


def test_a_token_does_not_show_its_secret() -> None:
    assert SECRET not in sign(TICKET, SECRET)


@given(st.data())
def test_every_change_of_a_single_character_is_refused(data: st.DataObject) -> None:
    token = sign(TICKET, SECRET)
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[position]))
    assert not proves(token[:position] + other + token[position + 1 :], SECRET, 0)


@given(st.data())
def test_every_part_of_a_token_is_refused(data: st.DataObject) -> None:
    token = sign(TICKET, SECRET)
    assert not proves(token[: data.draw(st.integers(0, len(token) - 1))], SECRET, 0)
    assert not proves(token + data.draw(st.text(min_size=1)), SECRET, 0)


@given(tickets, st.text(min_size=1), st.text())
def test_no_other_secret_proves(ticket: CallbackClaims, secret: str, other: str) -> None:
    # What cannot be encoded counts as a question mark; both sides of a connection read the same text.
    if secret.encode("utf-8", "replace") != other.encode("utf-8", "replace"):
        assert not proves(sign(ticket, secret), other, 0)


@pytest.mark.parametrize("secret", ["", "none"])
def test_without_a_secret_nothing_is_proved(secret: str) -> None:
    """Not even by who knows what stands in for a missing one."""
    token = sign(TICKET, secret)
    assert not proves(token, None, 0)
    assert not proves(token, "", 0)


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))))
def test_rubbish_claims_and_proves_nothing(token: str) -> None:
    assert decode_unverified(token) is None
    assert not proves(token, SECRET, 0)
    assert not proves(token, None, 0)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_other_json_claims_nothing(value: Any) -> None:
    said = tokens._encode(json.dumps(value).encode())
    assert decode_unverified(f"{said}.{tokens._mac(said, SECRET)}") is None


@pytest.mark.parametrize(
    "values",
    [
        ["dag", "run", "task", -1, "seedance", "n"],
        ["dag", "run", "task", -1, "seedance", "n", 1000, 1],
        ["dag", "run", "task", True, "seedance", "n", 1000],
        ["dag", "run", "task", -1, "seedance", "n", 1000.0],
        ["dag", "run", None, -1, "seedance", "n", 1000],
        [["dag"], "run", "task", -1, "seedance", "n", 1000],
    ],
)
def test_a_signed_list_of_another_form_is_no_ticket(values: list[Any]) -> None:
    said = tokens._encode(json.dumps(values).encode())
    token = f"{said}.{tokens._mac(said, SECRET)}"
    assert decode_unverified(token) is None
    assert not proves(token, SECRET, 0)


def test_deep_and_long_rubbish() -> None:
    for text in ("[" * 4000, "9" * 5000):
        assert decode_unverified(tokens._encode(text.encode()) + ".x") is None
    assert decode_unverified("A" * (tokens.LONGEST + 1) + ".x") is None


@pytest.mark.parametrize("base", ["https://airflow.example.com", "https://airflow.example.com/"])
def test_the_address(base: str) -> None:
    token = sign(TICKET, SECRET)
    assert address(base, token) == f"https://airflow.example.com/seedance/callbacks/{token}"
    assert urlsplit(address(base, token)).path.rpartition("/")[2] == token


def test_an_airflow_below_a_path() -> None:
    assert address("https://example.com/airflow", "t") == "https://example.com/airflow/seedance/callbacks/t"
