"""Requests of a batch: lists, texts and files, and the messages about invalid ones."""

from __future__ import annotations

import csv
import io
import itertools
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
from airflow_provider_seedance.generations import VideoRequest
from airflow_provider_seedance.urls import MediaInput


def written(path: Path, text: str | bytes) -> str:
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
    return [item.arguments for item in read_requests(value, defaults)]


def test_any_iterable() -> None:
    class Lazy:
        """The form of XComs of mapped tasks."""

        def __iter__(self) -> Iterator[str]:
            return iter(("A lamp", "A bag"))

    texts = ("('A lamp', {'prompt': 'A bag'})", '\n  ["A lamp",\n {"prompt": "A bag"}]\n')
    prompts = ("A lamp", "A bag")
    for value in (*texts, Lazy(), iter(prompts), prompts, dict.fromkeys(prompts).keys()):
        assert arguments(value) == [{"prompt": "A lamp"}, {"prompt": "A bag"}]
    for value in ([], (), "[]", "()", " [] ", iter(())):
        assert read_requests(value, {"duration": 4}) == []


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
    assert len(read_requests(["A lamp"] * MAX_ITEMS)) == MAX_ITEMS
    for value in (
        ["A lamp"] * (MAX_ITEMS + 1),
        itertools.repeat("A lamp"),
        written(tmp_path / "many.jsonl", '"A lamp"\n' * (MAX_ITEMS + 1)),
        written(tmp_path / "many.csv", "prompt\n" + "A lamp\n" * (MAX_ITEMS + 1)),
    ):
        assert f"more than {MAX_ITEMS}" in refused(value)


def test_a_file_of_invalid_lines_is_not_read_to_its_end(tmp_path: Path) -> None:
    with patch.object(requests, "_json", wraps=requests._json) as read:
        message = refused(written(tmp_path / "bad.jsonl", "x\n" * (3 * MAX_ITEMS)))
    assert "line 1 is not JSON" in message
    assert read.call_count == MAX_ITEMS + 1


@pytest.mark.parametrize(
    ("value", "read"),
    [*((unset, 4) for unset in (None, "", " ", "None")), *((false, false) for false in (0, False, [], {}))],
)
def test_an_unset_argument_gets_its_default(value: Any, read: Any) -> None:
    expected = [{"prompt": "A lamp", "seed": read}]
    assert arguments([{"prompt": "A lamp", "seed": value}], {"seed": 4, "duration": " "}) == expected


def test_prompts_and_the_values_of_the_caller_are_not_changed() -> None:
    odd = "  A lamp\n\u2028 at  night\u3000"
    given, defaults = {"prompt": odd, "key": "a", "duration": None}, {"duration": 4}
    assert arguments([odd, given], defaults) == [{"prompt": odd, "duration": 4}] * 2
    assert (given, defaults) == ({"prompt": odd, "key": "a", "duration": None}, {"duration": 4})


LONGEST = "x" * MAX_KEY_CHARS


@pytest.mark.parametrize(
    ("names", "key", "take"),
    [
        *(
            ({"key": key}, read, None)
            for key, read in ((7, "7"), (0, "0"), (-1, "-1"), (None, "0"), ("", "0"))
        ),
        *(({"key": key}, key, None) for key in ("ä ö/ü", LONGEST)),
        *(
            ({"key": "a", "take": take}, key, int(take))
            for take, key in ((1, "a"), ("2", "a-2"), (" 3 ", "a-3"))
        ),
        *(({"key": "a", "take": take}, "a", None) for take in (None, "")),
        ({"key": LONGEST, "take": 1}, LONGEST, 1),
    ],
)
def test_a_key_is_read_as_text_and_a_take_as_a_number(
    names: dict[str, Any], key: str, take: int | None
) -> None:
    (item, _) = read_requests([{"prompt": "A lamp", **names}, {"prompt": "A lamp", "key": "b"}])
    assert (item.key, item.take) == (key, take)
    assert item.arguments == {"prompt": "A lamp"}


@pytest.mark.parametrize(
    "key",
    [
        True, 1.5, ["a"], {}, " ", "a\nb", "a\0", "\ud800", LONGEST + "x", 10**MAX_KEY_CHARS, -(10**5000),
    ],
    ids=lambda key: "large" if isinstance(key, int) else repr(key)[:20],
)  # fmt: skip
def test_an_invalid_key_is_refused(key: Any) -> None:
    assert f"at most {MAX_KEY_CHARS} characters" in refused([{"prompt": "A lamp", "key": key}])


@pytest.mark.parametrize("take", [0, -1, 1.0, "1.0", "x", True, [1], 10_001, "²"], ids=str)
def test_an_invalid_take_is_refused(take: Any) -> None:
    assert "a take is a whole number from 1 to 10000" in refused([{"prompt": "A lamp", "take": take}])
    # A key has room for its take.
    assert "at most 200 characters" in refused([{"prompt": "A lamp", "key": LONGEST, "take": 2}])


def test_equal_keys_are_named() -> None:
    message = refused(["A lamp", *({"prompt": "x", "key": key} for key in "aa0")])
    assert "requests 1 and 2 have the same key 'a'" in message
    assert "requests 0 and 3 have the same key '0'" in message


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "request 0 is None, neither"),
        *((item, f"request 0 is {type(item).__name__}, neither") for item in (7, ["A lamp"], b"A lamp")),
        *((item, "request 0 has no prompt") for item in ({}, {"prompt": None})),
        ({"prompt": 7}, "request 0 has a prompt that is int"),
        *((item, "request 0 has an empty prompt") for item in ("", "None", {"prompt": " "})),
        (
            {"prompt": "A lamp", "durtion": 4, "Seed": 1},
            "the unknown arguments 'Seed', 'durtion' (Did you mean 'seed', 'duration'? A request takes asp",
        ),
        ({"prompt": "A lamp", 7: 4}, "the unknown argument '7'"),
        ({"prompt": "A lamp", "quality": "high"}, "the unknown argument 'quality' (A request takes"),
    ],
)
def test_an_invalid_item_is_refused(item: Any, words: str) -> None:
    assert words in refused([item])


def test_an_item_with_an_input_needs_no_prompt() -> None:
    draft = {"prompt": "", "images": [{"draft_task": "cgt-1"}]}
    assert arguments([draft]) == [draft]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *(
            (path, "no such file")
            for path in ("none.csv", "my requests.jsonl", "/srv/my requests", "./a b/c")
        ),
        ("nowhere://bucket/x.jsonl", "cannot be used"),
    ],
)
def test_a_path_is_not_a_prompt(path: str, why: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=why) as caught:
        read_requests(path)
    assert "Nothing was sent" in caught.value.message
    assert not caught.value.retry_helps


def test_a_message_names_the_first_ten_problems() -> None:
    message = refused(["A lamp", *[None] * 12, {"prompt": "x", "key": "0"}])
    assert [f"request {index} is None" in message for index in range(1, 13)] == [True] * 10 + [False] * 2
    assert "and 3 more" in message


def test_a_message_does_not_repeat_long_names() -> None:
    assert len(refused([{"prompt": "A lamp", **{f"{n:0>5000}": 1 for n in range(50)}}])) < 1500


def test_an_invalid_request_that_is_kept_fails_its_item_only(tmp_path: Path) -> None:
    invalid = ({"prompt": " ", "key": "b"}, {"prompt": "x", "durtion": 1}, 7, {"prompt": "y", "key": " "})
    items = read_requests(["A lamp", *invalid], {"seed": 1}, keep=True)
    assert [item.key for item in items] == ["0", "b", "2", "3", "4"]
    assert [item.failure and item.failure.kind for item in items] == [None] + ["request"] * 4
    assert items[1].failure
    assert "request 1 has an empty prompt. Nothing was sent" in items[1].failure.error
    # The columns are those of all requests.
    with pytest.raises(errors.SeedanceRequestError, match="durtion"):
        read_requests(written(tmp_path / "r.csv", 'prompt,key,durtion\n"A lamp",,\n'), keep=True)


def test_invalid_lines_that_are_kept_fail_their_items_only(tmp_path: Path) -> None:
    items = read_requests(written(tmp_path / "r.jsonl", '"A lamp"\nlamp\n"A bag"\n'), keep=True)
    assert [item.failure is None for item in items] == [True, False, True]
    items = read_requests(written(tmp_path / "r.csv", "prompt,\nA lamp,x\nA bag,\n"), keep=True)
    assert [item.failure is None for item in items] == [False, True]


@pytest.mark.parametrize(
    "value",
    [
        "lamp", "A boat and/or a kite", "A lamp, 5.30", "Dawn. A boat", "Wide shot no.5b of a/b", "A lamp\nA bag",
        {"prompt": "A lamp"},
    ],
)  # fmt: skip
def test_a_single_request_belongs_in_a_list(value: Any) -> None:
    assert "put a single request in a list: requests=[…]" in refused(value)


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
    repeated = refused(written(tmp_path / "r.jsonl", '{"prompt": "A lamp", "prompt": "A bag"}'))
    assert "it has 'prompt' twice" in repeated


def test_numbers_of_any_size(tmp_path: Path) -> None:
    large = '{"prompt": "A lamp", "seed": 1' + "0" * 400 + "}"
    (item,) = read_requests(written(tmp_path / "r.jsonl", large))
    assert VideoRequest.from_arguments(item.arguments).seed == 10**400
    # Python refuses to read numbers of this length.
    assert "line 1 is not JSON" in refused(written(tmp_path / "r.jsonl", large.replace("0", "0" * 20)))


# ---------------------------------------------------------------------- CSV


def table(*rows: tuple[str, ...]) -> str:
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
    assert (lamp.prompt, lamp.duration, lamp.generate_audio) == ("A lamp,\nat night", 8, True)
    assert (lamp.extra_params, lamp.images) == ({"a": 1}, None)
    first, second = (MediaInput(url=f"https://x.example/{number}.png") for number in (1, 2))
    assert (bag.duration, bag.generate_audio, bag.images) == (4, None, (first, second))
    assert shoe.images == (first,)


@pytest.mark.parametrize("row", ["A lamp", "A lamp,", "A lamp,None"])
def test_an_empty_or_missing_cell_is_unset(tmp_path: Path, row: str) -> None:
    path = written(tmp_path / "r.csv", f"prompt,duration\n{row}\n")
    assert arguments(path, {"duration": 4}) == [{"prompt": "A lamp", "duration": 4}]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_may_be_divided_as_spreadsheets_do(tmp_path: Path, delimiter: str) -> None:
    text = delimiter.join(("prompt", "duration")) + "\n" + delimiter.join(("A lamp, at night", "4")) + "\n"
    path = written(tmp_path / "r.csv", text)
    assert arguments(path) == [{"prompt": "A lamp, at night", "duration": "4"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name|duration\nA lamp|4\n",
            "no column 'prompt' (columns are divided by commas, semicolons or tabs)",
        ),
        ("Promt;duration\nA lamp;4\n", "'Promt' (Did you mean 'prompt'?"),
        ("A lamp\nA bag\n", "the header (line 1) has the unknown argument 'A lamp'"),
        ("prompt,prompt\nA lamp,A bag\n", "has the column 'prompt' twice"),
        ("prompt,durtion\nA lamp,4\n", "'durtion'"),
        *(
            (f"{text},https://x.example\n", "line 2 has 'https://x.example' in a column without")
            for text in ("prompt,duration\nA lamp,4", "prompt,\nA lamp")
        ),
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
def test_an_empty_file_warns(tmp_path: Path, name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert read_requests(written(tmp_path / name, text)) == []
    assert f"{name}'): there is nothing to render" in caplog.text


def test_an_unreachable_store_is_worth_a_retry(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", "")
    with (
        patch.object(LocalFileSystem, "open", side_effect=ConnectionError("no route")),
        pytest.raises(errors.SeedanceMediaError, match="no route") as caught,
    ):
        read_requests(path)
    assert caught.value.retry_helps


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xd8", "not UTF-8 text"),
        (b'\xff\xfe"\x00', "not UTF-8 text"),
        ("prompt\nEin Gerät\n".encode("cp1252"), r"looks like Windows-1252 or Latin-1.*Save it as UTF-8"),
        ("prompt\nEin Gerät\n".encode("utf-16"), r"looks like UTF-16.*Save it as UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises(errors.SeedanceConfigurationError, match=words):
        read_requests(written(tmp_path / name, data))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_FILE_BYTES", 2 * 1024**2)
    path = written(tmp_path / "r.jsonl", b'"A lamp"' + b" " * (2 * 1024**2 - 8))
    assert arguments(path) == [{"prompt": "A lamp"}]
    with pytest.raises(errors.SeedanceConfigurationError, match="larger than 2 MiB"):
        read_requests(written(tmp_path / "r.jsonl", Path(path).read_bytes() + b" "))


# ---------------------------------------------------------------------- any request


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
    items=st.lists(ITEMS | PROMPTS, max_size=3),
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
    try:
        return read_requests(value)
    except (errors.SeedanceRequestError, errors.SeedanceConfigurationError) as error:
        if "Nothing was sent" in error.message:
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
