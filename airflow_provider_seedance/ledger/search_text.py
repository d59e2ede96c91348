"""Searchable texts of rows: short enough for an index, and the same on every database."""

from __future__ import annotations

import hashlib
from unicodedata import normalize

#: Limit of a text beside the other columns of its index: MySQL reserves 3072 bytes for all.
MAX_SEARCH_BYTES = 1800

#: Text of a row with too many words: a search reads its other columns.
INCOMPLETE = "Z"

#: Text of a row whose submission is still to come: a search for words does not find it.
NO_WORDS = ""

#: Length of a token: a search checks again what it finds, so few letters are enough.
TOKEN_LENGTH = 6

#: The letters i of Turkish, with a dot and without one, are the same. PostgreSQL refuses NUL, which no prompt contains.
_FOLDED = str.maketrans({"\u0307": None, "\u0131": "i", "\0": None})

#: Letters of tokens, which folded words never have.
_LETTERS = str.maketrans("0123456789abcdef", "ABCDEFGHIJKLMNOP")


def folded(text: str) -> str:
    """Return a text without the case of its letters."""
    return normalize("NFC", text.casefold()).translate(_FOLDED)


def token(name: object) -> str:
    """Return the token of a name that a search finds as a whole only."""
    digest = hashlib.sha256(str(name).encode("utf-8", "replace")).hexdigest()
    return digest[:TOKEN_LENGTH].translate(_LETTERS)


def prompt_text(namespace: str, dag_id: str, item_key: object, prompt: str | None) -> str:
    """Return the searchable text of a prompt: the tokens of its Dag and its item key, then its words, each once."""
    text = token(dag_id) + token(item_key)
    # Short, so that the index stays in memory: without spaces. A word may be a part of others.
    for word in sorted(set(folded(prompt or "").split()), key=lambda word: (-len(word), word)):
        if len(text) <= MAX_SEARCH_BYTES and word not in text:
            text += word
    # PostgreSQL has room for 2704 bytes, of which the namespace takes some.
    room = min(MAX_SEARCH_BYTES, 2400 - len(namespace.encode("utf-8", "replace")))
    return text if len(text.encode()) <= room else INCOMPLETE
