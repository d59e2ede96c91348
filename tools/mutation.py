"""
Print the results of the mutation tests.

Run by `make mutation` after mutmut: prints the share of killed mutants by module and in total, and the survivors; fails
below the given percentage. A timeout counts as killed.

    python tools/mutation.py 85
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

#: mutmut's results: the exit code of pytest, or of its process.
KILLED = {
    1: "killed",
    3: "killed",
    24: "timeout",
    36: "timeout",
    -24: "timeout",
    152: "timeout",
    255: "timeout",
}
SURVIVED = {0: "survived", 5: "no tests", 33: "no tests"}


def main() -> None:
    """Print the figures."""
    minimum = float(sys.argv[1])
    total: Counter[str] = Counter()
    survivors: list[str] = []
    for path in sorted(Path("mutants").rglob("*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        ends = {name: KILLED.get(code) or SURVIVED.get(code) or "not run" for name, code in codes.items()}
        if not ends:
            continue
        counted = Counter(ends.values())
        total += counted
        survivors += [name for name, end in ends.items() if end not in KILLED.values()]
        print(f"{path.relative_to('mutants').with_suffix('')!s:55} {figure(counted)}")
    for name in survivors:
        print("  survived:", name)
    print(f"{'all':55} {figure(total)}")
    if 100 * killed(total) < minimum * total.total():
        sys.exit(f"Fewer than {minimum:g} % of the mutants were killed.")


def killed(counted: Counter[str]) -> int:
    """Return the number of killed mutants."""
    return sum(counted[end] for end in set(KILLED.values()))


def figure(counted: Counter[str]) -> str:
    """Format the results."""
    rest = ", ".join(f"{count} {end}" for end, count in sorted(counted.items()) if end != "killed")
    return f"{killed(counted):5} of {counted.total():5} = {100 * killed(counted) / counted.total():5.1f} %  ({rest})"


if __name__ == "__main__":
    main()
