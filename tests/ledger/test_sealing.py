"""Encryption of signed links, while the keys of Airflow change."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from airflow_provider_seedance.ledger.sealing import seal, unseal

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (OLD, {"url": "u"}),
        (f"{NEW}, {OLD}", {"url": "u"}),
        (NEW, None),
        ("", None),
        ("no key", None),
    ],
)
def test_a_text_is_read_with_any_of_the_keys(
    monkeypatch: pytest.MonkeyPatch, keys: str, found: dict[str, str] | None
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", OLD)
    text = seal({"url": "u"})
    assert text is not None
    assert "url" not in text
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", keys)
    assert unseal(text) == found


def test_without_a_key_nothing_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    assert seal({"url": "u"}) is None
