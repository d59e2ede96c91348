"""Redaction of secrets in texts that services or libraries wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote, urlsplit

from airflow_provider_seedance.callbacks.tokens import PREFIX

#: Shorter secrets are not searched for: they would be found in ordinary words.
MIN_SECRET_CHARS = 4

# The address that a service calls back is a secret as well: its token authorizes the call.
_CALLBACK_URL = rf"(?P<callbacks>{re.escape(PREFIX)}/callbacks/)[\w.\-]+"
# A service may name the link of an input that it could not read: its user info and query may be signatures.
_LINK = r"""(?P<user>https?://)[^\s/?#@"'<>*]{1,500}+@|(?P<query>https?://[^\s?"'<>]{1,1200}+\?)(?!\*)[^\s"'<>]*[^\s"'<>.,;)]"""

_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([\\/"'bfnrt]))""")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _unescape(text: str) -> str:
    """Resolve the escapes of JSON and of a Python ``repr``."""
    found = _ESCAPE.sub(
        lambda match: (
            chr(int(match[1] or match[2], 16)) if match[1] or match[2] else _ESCAPED.get(match[3], match[3])
        ),
        text,
    )
    # Two escapes may be the halves of one character.
    return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


#: Applied one after the other: a message may quote JSON that quotes a URL that quotes JSON.
_DECODERS: tuple[Callable[[str], str], ...] = (_unescape, unquote, _unescape, unquote)


class Redactor:
    """
    Function that replaces secrets, callback addresses and queries of links by ``***``.

    Searches a text as it is, and without the escapes of JSON, ``repr`` and URLs. A text that holds a secret in
    an escaped form is returned unescaped; any other text is returned as it is.

    :param secrets: The secrets; ``None`` and short ones are skipped.
    """

    def __init__(self, secrets: Iterable[str | None]) -> None:
        known = {secret for secret in secrets if secret and len(secret) >= MIN_SECRET_CHARS}
        spelled = [re.escape(secret) for secret in sorted(known, key=len, reverse=True)]
        self._pattern = re.compile("|".join([*spelled, _CALLBACK_URL, _LINK]), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        redacted = decoded = self._pattern.sub(_mask, text)
        for decode in _DECODERS:
            decoded, found = self._pattern.subn(_mask, decode(decoded))
            if found:
                redacted = decoded
        return redacted


def _mask(match: re.Match[str]) -> str:
    return f"{match['callbacks'] or match['user'] or match['query'] or ''}***{'@' if match['user'] else ''}"


def proxy_password(proxy: str | None) -> str | None:
    """Return the password in the URL of a proxy, or ``None``."""
    try:
        return unquote(urlsplit(proxy or "").password or "") or None
    except ValueError:
        return None
