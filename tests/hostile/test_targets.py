"""A short run of the targets of ``make fuzz``: any bytes become a result or an error of this package."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from . import samples, targets

#: Seeds of each target.
SEEDS: dict[int, list[bytes]] = {}
for _seed in targets.seeds():
    SEEDS.setdefault(_seed[0], []).append(_seed[1:])
WORDS = st.sampled_from(
    [*samples.WORDS, '"', "{", "[", "}", "]", ":", ",", "\x1e", "\t", "\n", "\\u0000", "\\ud800"]
)
FRAGMENTS = st.lists(WORDS | st.text(max_size=4), max_size=30).map(
    lambda words: "".join(words).encode("utf-8", "replace")
)


@st.composite
def damaged(draw: st.DrawFn, number: int) -> bytes:
    """Return a sample for one reader with a part of it replaced."""
    seed = draw(st.sampled_from(SEEDS[number]))
    start = draw(st.integers(0, len(seed)))
    end = draw(st.integers(start, min(len(seed), start + 40)))
    return seed[:start] + draw(FRAGMENTS | st.binary(max_size=8)) + seed[end:]


@pytest.mark.parametrize(
    "number", range(len(targets.TARGETS)), ids=[target.__name__ for target in targets.TARGETS]
)
def test_any_bytes_become_a_result_or_an_error(number: int) -> None:
    target: Callable[[bytes], None] = targets.TARGETS[number]
    for seed in SEEDS[number]:  # every documented sample
        target(seed)

    @settings(max_examples=20)
    @given(data=damaged(number) | FRAGMENTS | st.binary(max_size=200))
    def check(data: bytes) -> None:
        target(data)

    check()


@pytest.mark.parametrize(
    "data",
    [
        # Earlier findings of the fuzzer.
        b'\x03\x02\x02\x00\x00{"error": {"code": "X", "message": "\\u0000"}}',
        b"\x0bhttps\x01\x00://a.example/b\nhttps:)/127.0.0.1/",
        b"\x0bhttps:evil.example/a.mp4",
    ],
)
def test_earlier_findings(data: bytes) -> None:
    targets.run(data)
