"""Requests of a batch: lists, texts and files, and the messages about invalid ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_seedance import exceptions as errors
from airflow_provider_seedance.batch import requests
from airflow_provider_seedance.batch.items import BatchItem
from airflow_provider_seedance.batch.requests import MAX_ITEMS, MAX_KEY_CHARS, read_requests
from airflow_provider_seedance.generations import MediaInput, VideoRequest


def written(path: Path, text: str | bytes) -> str:
    """Write a file and return its path."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(value: Any, defaults: dict[str, Any] | None = None) -> str:
    """Return the message about requests that cannot be used."""
    with pytest.raises(errors.SeedanceRequestError) as caught:
        read_requests(value, defaults)
    assert "Nothing was sent, nothing is billed." in caught.value.message
    assert not caught.value.retry_helps
    return caught.value.message


def arguments(value: Any, defaults: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the arguments that were read."""
    return [item.arguments for item in read_requests(value, defaults)]


# ---------------------------------------------------------------------- lists


def test_prompts_and_dicts() -> None:
    assert read_requests(["A lamp", {"prompt": "A bag", "key": "bag", "duration": 8}], {"duration": 4}) == [
        BatchItem(key="0", arguments={"prompt": "A lamp", "duration": 4}),
        BatchItem(key="bag", arguments={"prompt": "A bag", "duration": 8}),
    ]


@pytest.mark.parametrize("value", [[], (), "[]", "()", " [] ", iter(())])
def test_an_empty_list_has_no_requests(value: Any) -> None:
    assert read_requests(value, {"duration": 4}) == []


def test_any_iterable() -> None:
    class Lazy:
        """The form of XComs of mapped tasks."""

        def __iter__(self) -> Iterator[str]:
            return iter(("A lamp", "A bag"))

    expected = [{"prompt": "A lamp"}, {"prompt": "A bag"}]
    for value in (Lazy(), iter(("A lamp", "A bag")), ("A lamp", "A bag"), {"A lamp": 1, "A bag": 2}.keys()):
        assert arguments(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        '["A lamp", {"prompt": "A bag", "seed": null}]',
        "['A lamp', {'prompt': 'A bag', 'seed': None}]",
        "('A lamp', {'prompt': 'A bag'})",
        '\n  ["A lamp",\n {"prompt": "A bag"}]\n',
    ],
)
def test_a_list_as_text(text: str) -> None:
    assert arguments(text) == [{"prompt": "A lamp"}, {"prompt": "A bag"}]


@pytest.mark.parametrize(
    "value",
    [
        None, 7, True, b"[]", {"prompt": "A lamp"}, "", "None", "{'prompt': 'A lamp'}", "A lamp\nA bag",
        "[A lamp]", "[NaN]", "[" * 5000, "(" * 5000 + ")" * 5000, {"A lamp", "A bag"}, frozenset(["A lamp"]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_is_not_a_list_is_refused(value: Any) -> None:
    assert "request" in refused(value)


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "A lamp"

    assert len(read_requests(["A lamp"] * MAX_ITEMS)) == MAX_ITEMS
    for value in (
        ["A lamp"] * (MAX_ITEMS + 1),
        endless(),
        written(tmp_path / "many.jsonl", '"A lamp"\n' * (MAX_ITEMS + 1)),
        written(tmp_path / "many.csv", "prompt\n" + "A lamp\n" * (MAX_ITEMS + 1)),
    ):
        assert f"more than {MAX_ITEMS}" in refused(value)


def test_a_file_of_invalid_lines_is_not_read_to_its_end(tmp_path: Path) -> None:
    with patch.object(requests, "_json", wraps=requests._json) as read:
        message = refused(written(tmp_path / "bad.jsonl", "x\n" * (3 * MAX_ITEMS)))
    assert "line 1 is not JSON" in message
    assert read.call_count == MAX_ITEMS + 1


# ---------------------------------------------------------------------- items


@pytest.mark.parametrize("unset", [None, "", " ", "None"])
def test_an_unset_argument_gets_its_default(unset: Any) -> None:
    assert arguments([{"prompt": "A lamp", "duration": unset}], {"duration": 4, "seed": unset}) == [
        {"prompt": "A lamp", "duration": 4}
    ]


@pytest.mark.parametrize("value", [0, False, [], {}])
def test_a_false_argument_is_set(value: Any) -> None:
    assert arguments([{"prompt": "A lamp", "seed": value}], {"seed": 4}) == [
        {"prompt": "A lamp", "seed": value}
    ]


def test_prompts_are_not_changed() -> None:
    odd = "  A lamp\n\u2028 at  night\u3000"
    assert arguments([odd, {"prompt": odd}]) == [{"prompt": odd}] * 2


def test_the_values_of_the_caller_are_not_changed() -> None:
    given = [{"prompt": "A lamp", "key": "a", "duration": None}]
    defaults = {"duration": 4}
    read_requests(given, defaults)
    assert given == [{"prompt": "A lamp", "key": "a", "duration": None}]
    assert defaults == {"duration": 4}


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("a", "a"),
        (7, "7"),
        (0, "0"),
        (-1, "-1"),
        (None, "0"),
        ("", "0"),
        ("ä ö/ü", "ä ö/ü"),
        ("x" * MAX_KEY_CHARS,) * 2,
    ],
)
def test_a_key_is_read_as_text(key: Any, read: str) -> None:
    (item,) = read_requests([{"prompt": "A lamp", "key": key}])
    assert item.key == read
    assert "key" not in item.arguments


@pytest.mark.parametrize(
    "key",
    [
        True, 1.5, ["a"], {}, " ", "a\nb", "a\0", "\ud800", "x" * (MAX_KEY_CHARS + 1), 10**MAX_KEY_CHARS,
        -(10**5000),
    ],
    ids=lambda key: "large" if isinstance(key, int) else repr(key)[:20],
)  # fmt: skip
def test_an_invalid_key_is_refused(key: Any) -> None:
    assert f"at most {MAX_KEY_CHARS} characters" in refused([{"prompt": "A lamp", "key": key}])


def test_equal_keys_are_named() -> None:
    message = refused(
        ["A lamp", {"prompt": "x", "key": "a"}, {"prompt": "y", "key": "a"}, {"prompt": "z", "key": "0"}]
    )
    assert "requests 1 and 2 have the same key 'a'" in message
    assert "requests 0 and 3 have the same key '0'" in message


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "request 0 is None, neither"),
        (7, "request 0 is int, neither"),
        (["A lamp"], "request 0 is list, neither"),
        (b"A lamp", "request 0 is bytes, neither"),
        ({}, "request 0 has no prompt"),
        ({"prompt": None}, "request 0 has no prompt"),
        ({"prompt": 7}, "request 0 has a prompt that is int"),
        ({"prompt": ["A lamp"]}, "request 0 has a prompt that is list"),
        ("", "request 0 has an empty prompt"),
        ("None", "request 0 has an empty prompt"),
        ({"prompt": " "}, "request 0 has an empty prompt"),
        ({"prompt": "A lamp", "durtion": 4, "Seed": 1}, "for 'Seed', 'durtion' (there are aspect_ratio"),
        ({"prompt": "A lamp", 7: 4}, "for '7'"),
        ({"prompt": "A lamp", "quality": "high"}, "for 'quality'"),
    ],
)
def test_an_invalid_item_is_refused(item: Any, words: str) -> None:
    assert words in refused([item])


def test_an_item_with_an_input_needs_no_prompt() -> None:
    draft = {"prompt": "", "images": [{"draft_task": "cgt-1"}]}
    assert arguments([draft]) == [draft]


def test_a_message_names_the_first_ten_problems() -> None:
    message = refused(["A lamp", *[None] * 12, {"prompt": "x", "key": "0"}])
    assert [f"request {index} is None" in message for index in range(1, 13)] == [True] * 10 + [False] * 2
    assert "and 3 more" in message


def test_a_message_does_not_repeat_long_names() -> None:
    assert len(refused([{"prompt": "A lamp", **{f"{n:0>5000}": 1 for n in range(50)}}])) < 1500


# ---------------------------------------------------------------------- JSONL


def test_jsonl(tmp_path: Path) -> None:
    text = '\ufeff"A lamp"\r\n\r\n  \n{"prompt": "A bag\u2028", "key": 3, "images": null}\n'
    path = written(tmp_path / "requests.jsonl", text)
    expected = [
        BatchItem(key="0", arguments={"prompt": "A lamp", "duration": 4}),
        BatchItem(key="3", arguments={"prompt": "A bag\u2028", "duration": 4}),
    ]
    for value in (path, f"file://{path}", f" {path}\n", tmp_path / "requests.jsonl", ObjectStoragePath(path)):
        assert read_requests(value, {"duration": 4}) == expected


@pytest.mark.parametrize("path", ["s3://aws@bucket/x.jsonl", "s3://bucket/x.ndjson"])
def test_a_path_may_name_a_connection(path: str) -> None:
    with patch.object(requests, "read_text", return_value='"A lamp"') as read_text:
        read_requests(path)
    assert str(read_text.call_args.args[0]) == path


@pytest.mark.parametrize(
    "line", ["{", "A lamp", "NaN", '{"prompt": "x", "seed": Infinity}', "[" * 100_000, '"\x00"']
)
def test_an_invalid_line_is_named(tmp_path: Path, line: str) -> None:
    message = refused(written(tmp_path / "r.jsonl", f'"A lamp"\n\n{line}\n[]\n'))
    assert "line 3 is not JSON" in message
    assert "line 4 is list, neither" in message
    assert "line 1 " not in message


def test_a_repeated_name_is_refused(tmp_path: Path) -> None:
    message = refused(written(tmp_path / "r.jsonl", '{"prompt": "A lamp", "prompt": "A bag"}'))
    assert "it has 'prompt' twice" in message


def test_numbers_of_any_size(tmp_path: Path) -> None:
    large = '{"prompt": "A lamp", "seed": 1' + "0" * 400 + "}"
    (item,) = read_requests(written(tmp_path / "r.jsonl", large))
    assert VideoRequest.from_arguments(item.arguments).seed == 10**400
    # Python refuses to read numbers of this length.
    assert "line 1 is not JSON" in refused(written(tmp_path / "r.jsonl", large.replace("0", "0" * 20)))


# ---------------------------------------------------------------------- CSV


def table(*rows: tuple[str, ...]) -> str:
    """Write CSV."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def test_csv_cells_are_read_as_arguments(tmp_path: Path) -> None:
    text = table(
        ("prompt", " key ", "duration", "generate_audio", "images", "extra_params", ""),
        ("A lamp,\nat night", "lamp", "8", "true", "", '{"a": 1}', ""),
        ("", "", "", "", "", "", ""),
        ("A bag", "", "", "", "https://x.example/1.png  https://x.example/2.png", "", ""),
        ("A shoe", "", "", "", '["https://x.example/1.png"]', "", ""),
    )
    items = read_requests(written(tmp_path / "r.CSV", "\ufeff" + text), {"duration": 4})
    assert [item.key for item in items] == ["lamp", "1", "2"]
    lamp, bag, shoe = (VideoRequest.from_arguments(item.arguments) for item in items)
    assert (lamp.prompt, lamp.duration, lamp.generate_audio, lamp.extra_params) == (
        "A lamp,\nat night",
        8,
        True,
        {"a": 1},
    )
    assert (lamp.images, bag.duration, bag.generate_audio) == (None, 4, None)
    assert bag.images == (
        MediaInput(url="https://x.example/1.png"),
        MediaInput(url="https://x.example/2.png"),
    )
    assert shoe.images == (MediaInput(url="https://x.example/1.png"),)


@pytest.mark.parametrize("row", ["A lamp", "A lamp,", "A lamp,None"])
def test_an_empty_or_missing_cell_is_unset(tmp_path: Path, row: str) -> None:
    path = written(tmp_path / "r.csv", f"prompt,duration\n{row}\n")
    assert arguments(path, {"duration": 4}) == [{"prompt": "A lamp", "duration": 4}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt;duration\nA lamp;4\n", "no column 'prompt' (columns are divided by commas)"),
        ("A lamp\nA bag\n", "the header (line 1) has no argument of a request for 'A lamp'"),
        ("prompt,prompt\nA lamp,A bag\n", "has the column 'prompt' twice"),
        ("prompt,durtion\nA lamp,4\n", "'durtion'"),
        (
            "prompt,duration\nA lamp,4,https://x.example\n",
            "line 2 has 'https://x.example' in a column without",
        ),
        ("prompt,\nA lamp,https://x.example\n", "line 2 has 'https://x.example' in a column without"),
        ("prompt,key\n,a\n", "line 2 has no prompt"),
        ('prompt\n"A lamp\n', "is not CSV"),
        ("prompt\n" + "x" * 200_000 + "\n", "is not CSV (field larger"),
    ],
)
def test_invalid_csv_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(written(tmp_path / "r.csv", text))


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "text", ['"A lamp"\n', '\n {"prompt": "A lamp"}\n', '[\n"A lamp"\n]', "prompt\nA lamp\n", "['A lamp']"]
)
def test_without_a_suffix_the_format_is_recognized(tmp_path: Path, text: str) -> None:
    for name in ("requests", "requests.txt", "requests.json"):
        assert arguments(written(tmp_path / name, text)) == [{"prompt": "A lamp"}]


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.csv", "r"])
@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_holds_no_requests(tmp_path: Path, name: str, text: str) -> None:
    assert read_requests(written(tmp_path / name, text)) == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="no such file") as caught:
        read_requests(str(tmp_path / "none.jsonl"))
    assert "Nothing was sent" in caught.value.message
    assert not caught.value.retry_helps


def test_an_unknown_scheme() -> None:
    with pytest.raises(errors.SeedanceConfigurationError):
        read_requests("nowhere://bucket/x.jsonl")


def test_an_unreachable_store_is_worth_a_retry(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", "")
    with (
        patch.object(LocalFileSystem, "open", side_effect=ConnectionError("no route")),
        pytest.raises(errors.SeedanceMediaError, match="no route") as caught,
    ):
        read_requests(path)
    assert caught.value.retry_helps


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r"])
@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\xff\xd8", b'\xff\xfe"\x00', b'"A lamp \xe4"'])
def test_a_binary_file_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match="not UTF-8 text"):
        read_requests(written(tmp_path / name, data))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_FILE_BYTES", 2 * 1024**2)
    path = written(tmp_path / "r.jsonl", b'"A lamp"' + b" " * (2 * 1024**2 - 8))
    assert arguments(path) == [{"prompt": "A lamp"}]
    with pytest.raises(errors.SeedanceConfigurationError, match="larger than 2 MiB"):
        read_requests(written(tmp_path / "r.jsonl", Path(path).read_bytes() + b" "))


# ---------------------------------------------------------------------- properties

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
PROMPTS = TEXT.filter(lambda text: text.strip() not in ("", "None"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.fixed_dictionaries(
    {"prompt": PROMPTS}, optional=dict.fromkeys(sorted(requests._ARGUMENTS - {"prompt"}), JSON)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(ITEMS | PROMPTS, max_size=6),
    keys=st.lists(
        st.none() | st.integers(100) | TEXT.filter(lambda text: text.isprintable() and text.strip())
    ),
    defaults=st.fixed_dictionaries({}, optional={"duration": JSON, "seed": JSON}),
    ascii_only=st.booleans(),
)
def test_every_format_returns_the_written_list(
    tmp_path: Path, items: list[Any], keys: list[Any], defaults: dict[str, Any], ascii_only: bool
) -> None:
    used: set[str] = {str(index) for index in range(len(items))}
    for item, key in zip(items, keys, strict=False):
        if isinstance(item, dict) and str(key) not in used:
            item["key"] = key
            used.add(str(key))
    lines = [json.dumps(item, ensure_ascii=ascii_only) for item in items]
    direct = read_requests(items, defaults)
    assert len(direct) == len(items)
    assert read_requests(written(tmp_path / "r.jsonl", "\n".join(lines)), defaults) == direct
    assert read_requests(written(tmp_path / "r", "[" + ",".join(lines) + "]"), defaults) == direct
    assert read_requests(json.dumps(items), defaults) == direct
    assert read_requests(repr(items), defaults) == direct


def read_or_refused(value: Any) -> list[BatchItem]:
    """Return the requests, or none where they are refused with the proper message."""
    free = "Nothing was sent"
    try:
        return read_requests(value)
    except (errors.SeedanceRequestError, errors.SeedanceConfigurationError) as error:
        if free in error.message:
            return []
        raise


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r"])
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, data: bytes) -> None:
    items = read_or_refused(written(tmp_path / name, data))
    assert len({item.key for item in items}) == len(items)


@given(st.recursive(JSON | st.floats() | st.binary(max_size=3), lambda inner: st.lists(inner, max_size=4)))
def test_any_value_is_read_or_refused(value: Any) -> None:
    items = read_or_refused([value] if isinstance(value, str) else value)
    assert all(VideoRequest.from_arguments(item.arguments).prompt for item in items)
