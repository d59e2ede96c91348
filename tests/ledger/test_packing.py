"""Records as a value of limited size."""

from __future__ import annotations

import base64
import json
import zlib
from random import Random

import pytest

from airflow_provider_seedance.ledger import packing
from airflow_provider_seedance.ledger.packing import MAX_READABLE_BYTES, pack, unpack
from airflow_provider_seedance.submission import records as rec

from .record_samples import ended, intent

#: Records whose results do not shrink, each longer than the one before.
RECORDS = {
    f"{number}.0": ended(number, urls=(f"https://m.example/{Random(number).randbytes(50 * number).hex()}",))
    for number in range(1, 41)
}


def test_short_values_are_readable_and_long_ones_are_compressed() -> None:
    value, left_out = pack({"a.0": intent(), "b.0": None})
    assert (list(value), left_out) == (["records"], set())
    assert value["records"]["b.0"] is None
    value, left_out = pack(RECORDS)
    assert (list(value), left_out) == (["packed"], set())
    assert unpack(value) == RECORDS


@pytest.mark.parametrize(("longer", "form"), [(0, "records"), (1, "packed")])
def test_the_longest_readable_value(longer: int, form: str) -> None:
    record = intent()
    room = MAX_READABLE_BYTES - len(f'{{"":{record.json_text}}}')
    assert list(pack({"k" * (room + longer): record})[0]) == [form]


def test_the_longest_results_are_left_out_first() -> None:
    whole = len(json.dumps(pack(RECORDS)[0]))
    assert pack(RECORDS, max_bytes=whole)[1] == set()
    value, left_out = pack(RECORDS, max_bytes=whole - 1)
    assert left_out == {f"{number}.0" for number in range(36, 41)}  # an eighth
    assert unpack(value) == {
        key: record.without_result if key in left_out else record for key, record in RECORDS.items()
    }
    assert pack(RECORDS, max_bytes=0)[1] == RECORDS.keys()
    assert pack({"a.0": intent(), "b.0": None}, max_bytes=0)[1] == set()


@pytest.mark.parametrize("packed", ["####", base64.b64encode(b"no zlib").decode(), "AA AA"])
def test_damage_is_an_error(packed: str) -> None:
    with pytest.raises(packing.DAMAGE):
        unpack({"packed": packed})


def test_a_value_that_expands_without_end_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"a.0": rec.replace(intent()).as_dict()})
    packed = {"packed": base64.b64encode(zlib.compress(text.encode())).decode()}
    monkeypatch.setattr(packing, "_MAX_UNPACKED_BYTES", len(text))
    assert list(unpack(packed)) == ["a.0"]
    monkeypatch.setattr(packing, "_MAX_UNPACKED_BYTES", len(text) - 1)
    with pytest.raises(packing.DAMAGE):
        unpack(packed)
