"""Redaction: secrets in every spelling that a reply, an exception or a URL may hold them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_seedance.redaction import Redactor, proxy_password

KEY = "sk+te/st=9x8y\"7z6w'5v4u\\3"
TOKEN = "WyJk-_.AbC-_9"


def every_unicode_escape(text: str) -> str:
    return "".join(f"\\u{ord(character):04X}" for character in text)


SPELLINGS = {
    "plain": KEY,
    "other case": KEY.upper(),
    "JSON": json.dumps(KEY)[1:-1],
    "JSON in JSON": json.dumps(json.dumps(KEY))[1:-1],
    "JSON with escaped slashes": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "JSON in JSON with escaped slashes": json.dumps(json.dumps(KEY).replace("/", "\\/"))[1:-1],
    "unicode escapes": every_unicode_escape(KEY),
    "one unicode escape": json.dumps(KEY)[1:-1].replace("/", "\\u002f"),
    "repr": repr(KEY)[1:-1],
    "bytes": repr(KEY.encode())[2:-1],
    "URL": quote(KEY, safe=""),
    "URL in lower case": quote(KEY, safe="").lower(),
    "path of a URL": quote(KEY),
    "URL twice": quote(quote(KEY, safe=""), safe=""),
    "JSON in a URL": quote(json.dumps(KEY), safe=""),
}


def test_a_secret_is_removed_in_every_spelling() -> None:
    for name, spelling in SPELLINGS.items():
        shown = Redactor([KEY])(f"Bearer {spelling} refused")
        assert shown.startswith("Bearer ")
        assert shown.endswith(("*** refused", '***" refused'))
        assert not any(part in shown.lower() for part in ("sk", "te", "9x8y", "7z6w", "5v4u")), name


def test_the_token_of_a_callback_address_is_removed() -> None:
    for url in [
        f"https://a.example/seedance/callbacks/{TOKEN}",
        f"https:\\/\\/a.example\\/seedance\\/callbacks\\/{TOKEN}",
        f"https%3A%2F%2Fa.example%2Fseedance%2Fcallbacks%2F{TOKEN}",
        f"https:\\u002f\\u002fa.example\\u002fseedance\\u002fcallbacks\\u002f{TOKEN}",
    ]:
        assert Redactor([])(f"no answer from {url} (3 tries)") == (
            "no answer from https://a.example/seedance/callbacks/*** (3 tries)"
        )


def test_the_host_of_a_link_stays_readable() -> None:
    assert Redactor([])("https://u:p4ss@bucket.example/a?X=4f") == "https://***@bucket.example/a?***"


@pytest.mark.parametrize(
    "link", ["https://bucket.example/a.png?X-Amz-Signature=4f", "http://u:p4ss@bucket.example/a"]
)
@pytest.mark.parametrize(
    "spell", [str, lambda link: json.dumps(link).replace("/", "\\/"), lambda link: quote(link, safe="")]
)
def test_what_may_sign_a_link_is_removed(link: str, spell: Callable[[str], str]) -> None:
    """A service may name the link of an input that it could not read."""
    shown = Redactor([])(f"cannot read {spell(link)}. Try again.")
    assert "bucket.example/a" in shown
    assert shown.endswith(". Try again.")
    assert "4f" not in shown
    assert "p4ss" not in shown


def test_a_text_without_secrets_is_returned_as_it_is() -> None:
    text = 'a \\/ b %2F c \\u0041 "d" 100% \\'
    assert Redactor([KEY, None, "", "abc"])(text) == text


def test_the_longest_secret_is_removed_first() -> None:
    assert Redactor(["pass-word", "http://u:pass-word@h"])("http://u:pass-word@h pass-word") == "*** ***"


@given(st.text(min_size=4), st.text(), st.text())
def test_no_escaped_secret_remains(secret: str, before: str, after: str) -> None:
    redact = Redactor([secret])
    for spelled in (json.dumps(secret)[1:-1], json.dumps(secret)[1:-1].replace("/", "\\/")):
        assert json.dumps(f"<{spelled}>") not in json.dumps(redact(f"<{spelled}>"))
    assert secret not in redact(before + secret + after) or secret in "***"


def test_the_password_of_a_proxy() -> None:
    for proxy, password in [
        (None, None),
        ("http://h:1", None),
        ("http://u@h:1", None),
        ("http://u:pr0xy%2Fpa55@h:1", "pr0xy/pa55"),
        ("http://[x", None),
    ]:
        assert proxy_password(proxy) == password
