"""
Say how much of what keeps the promises is noticed by tests when it is changed.

Run by `make mutation` after mutmut: prints the figure by module and in all, and the changes that no test noticed;
fails below the share that is asked for. A change that makes a test run for ever counts as noticed.

    python tools/mutation.py 85
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

#: What mutmut notes of a mutant: the exit code of pytest, or of the process that it ran in.
NOTICED = {
    1: "killed",
    3: "killed",
    24: "timeout",
    36: "timeout",
    -24: "timeout",
    152: "timeout",
    255: "timeout",
}
MISSED = {0: "survived", 5: "no tests", 33: "no tests"}


def main() -> None:
    """Print the figures."""
    least = float(sys.argv[1])
    total: Counter[str] = Counter()
    missed: list[str] = []
    for path in sorted(Path("mutants").rglob("*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        ends = {name: NOTICED.get(code) or MISSED.get(code) or "not run" for name, code in codes.items()}
        if not ends:
            continue
        counted = Counter(ends.values())
        total += counted
        missed += [name for name, end in ends.items() if end not in NOTICED.values()]
        print(f"{path.relative_to('mutants').with_suffix('')!s:55} {figure(counted)}")
    for name in missed:
        print("  not noticed:", name)
    print(f"{'all':55} {figure(total)}")
    if 100 * noticed(total) < least * total.total():
        sys.exit(f"Fewer than {least:g} % of the changes were noticed.")


def noticed(counted: Counter[str]) -> int:
    """How many were noticed."""
    return sum(counted[end] for end in set(NOTICED.values()))


def figure(counted: Counter[str]) -> str:
    """The figure in words."""
    rest = ", ".join(f"{count} {end}" for end, count in sorted(counted.items()) if end != "killed")
    return f"{noticed(counted):5} of {counted.total():5} = {100 * noticed(counted) / counted.total():5.1f} %  ({rest})"


if __name__ == "__main__":
    main()
