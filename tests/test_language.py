"""Language of code, messages and pages: plain technical English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from source_tree import MODULES, ROOT, name_of, nodes_of, source_of, tree_of

REPOSITORY = ROOT.parent

#: Words that neither code nor pages use: they stand for an actor or a field's noun that has a name.
BANNED_WORDS = re.compile(
    r"\b(nobody|somebody|whoever|anybody|everybody|whatever|told|asked|errands?|mailbox|stubborn(ly)?|patience"
    r"|no one|someone|anyone|everyone|those who"
    r"|so many|so often|for ever|at the (most|least)|begins? anew|(?<!there )is no (?!such|longer|more)\w+)\b",
    re.IGNORECASE,
)

#: Parts of identifiers that once were private language.
BANNED_NAME_PARTS = {
    *("told", "asked", "nobody", "somebody", "whoever", "anybody", "whatever"),
    *("seat", "turn", "turns", "course", "others", "pace", "hint", "hints", "mailbox", "belief", "beliefs"),
    *("patience", "errand", "books", "stubborn", "stubbornly", "campaign", "campaigns"),
}

#: First words of docstrings that describe nothing: a docstring begins with a noun phrase or an imperative.
BANNED_FIRST_WORDS = {
    *("What", "Whether", "Whoever", "How", "Where", "When", "Why"),
    *("Brings", "Copies", "Encodes", "Finds", "Generates", "Opens", "Polls", "Reads", "Removes", "Replaces"),
    *("Does", "Fills", "Forwards", "Keeps", "Listens", "Looks", "Moves", "Prints", "Stands", "Takes"),
    *("Retries", "Sends", "Serves", "Submits", "Waits", "Writes"),
}

MAX_WORDS_OF_A_SENTENCE = 35

PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")])


# ---------------------------------------------------------------------- code


def texts(source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return the line and text of each comment (and of all else that follows a ``#``) and string of a module."""
    for number, line in enumerate(source.splitlines(), start=1):
        _, mark, comment = line.partition("#")
        if mark:
            yield number, comment
    for node in nodes_of(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return the line and name of all that a module defines: functions, classes, arguments, variables."""
    for node in nodes_of(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name


#: Comments of constants and attributes, and parameters in docstrings, that begin with a clause in place of a noun.
CLAUSES = re.compile(r"(#:|:param \w+:) (What|Who|Whoever|How|Where|When|Why)\b")


@cache
def name_parts(name: str) -> set[str]:
    """Return the words of an identifier: ``HTTPTurnQueue`` and ``turn_queue`` have ``turn`` and ``queue``."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def banned_in(source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return the line and text of each banned word, name, and beginning of a docstring."""
    for line, text in texts(source, tree):
        yield from ((line, found[0]) for found in BANNED_WORDS.finditer(text))
    for line, name in defined_names(tree):
        if name_parts(name) & BANNED_NAME_PARTS:
            yield line, name
    for node in nodes_of(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            if re.split(r"\W", first_line, maxsplit=1)[0] in BANNED_FIRST_WORDS:
                yield getattr(node, "lineno", 1), first_line


def test_code_has_no_banned_words_and_names() -> None:
    found = [
        (name_of(path), *banned) for path in MODULES for banned in banned_in(source_of(path), tree_of(path))
    ]
    assert found == []


#: Further modules, except this one, and one that uses the account ``nobody`` of Unix.
OTHER_MODULES = sorted(
    path
    for folder in ("tests", "benchmarks", "example_dags", "tools")
    for path in (REPOSITORY / folder).rglob("*.py")
    if path != Path(__file__) and path.name != "backends.py"
)


def is_suspicious(source: str) -> bool:
    """Return whether a source may break a rule: most modules need no syntax tree, which would take seconds for all."""
    names = set(re.findall(r"[A-Za-z_]\w+", source))
    return bool(
        BANNED_WORDS.search(source)
        or BANNED_NAME_PARTS & set().union(*map(name_parts, names))
        or re.search(rf'"""\s*({"|".join(BANNED_FIRST_WORDS)})\b', source)
    )


def test_other_code_has_no_banned_words_and_names() -> None:
    paths = [path for path in OTHER_MODULES if is_suspicious(source_of(path))]
    found = [(path, *banned) for path in paths for banned in banned_in(source_of(path), tree_of(path))]
    assert found == []


def test_comments_and_parameters_begin_with_a_noun() -> None:
    paths = [*MODULES, *OTHER_MODULES]
    assert [(path, found[0]) for path in paths for found in CLAUSES.finditer(source_of(path))] == []
    assert CLAUSES.search("#: What it is.")
    assert not CLAUSES.search("#: Its name.")


def test_findings_in_code_are_found() -> None:
    for source, found in [
        ("x = 1  # is no queue", ["is no queue"]),
        ("x = 'so often'", ["so often"]),
        ("TurnQueue = 1", ["TurnQueue"]),
        ("def f(hint): ...", ["hint"]),
        ('"""Whoever asked."""', ["Whoever", "asked", "Whoever asked."]),
        ('def f():\n    """\n    Sends it.\n    """', ["Sends it."]),
    ]:
        assert is_suspicious(source)
        assert [text for _, text in banned_in(source, ast.parse(source))] == found


# ---------------------------------------------------------------------- pages


def sentences(text: str) -> Iterator[str]:
    """Return the sentences of a page: code left out, cells of tables and items of lists on their own."""
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(    .*\n?)+", "\n", text, flags=re.MULTILINE) if "\n    " in text else text
    text = re.sub(r"``?[^`]+``?", "CODE", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )|\n(?=\|)|(?<=\|)\n", text):
        for cell in block.split("|") if block.lstrip().startswith("|") else [block]:
            yield from (found for found in re.split(r"(?<=[.!?…])[)*]*\s+", " ".join(cell.split())) if found)


def length(sentence: str) -> int:
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def test_sentences_of_pages_are_short_and_have_no_banned_words() -> None:
    found = [(page, sentence) for page in PAGES for sentence in sentences(source_of(page))]
    assert [each for each in found if length(each[1]) > MAX_WORDS_OF_A_SENTENCE] == []
    assert [each for each in found if BANNED_WORDS.search(each[1])] == []


def test_sentences_are_found() -> None:
    page = "# A heading\n\nOne. Two `x. y`\nlines.\n\n    code. code\n\n* An item.\n* Two.\n\n| a | b. c |\n|---|---|\n"
    found = ["# A heading", "One.", "Two CODE lines.", "* An item.", "* Two.", "a", "b.", "c"]
    assert [sentence for sentence in sentences(page) if length(sentence)] == found
    assert length("one (two) - three `four`") == 4
