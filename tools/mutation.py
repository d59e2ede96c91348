"""
Choose mutants, and print the results of the mutation tests; run by `make mutation` before and after mutmut.

    python tools/mutation.py sample 30
    python tools/mutation.py results submission=90 ledger=90 polling=85

The first prints the names of at most 30 mutants of each module, always the same ones. The second prints the share
of killed mutants by module and folder, and the survivors; it fails if a folder has less than its percentage. A timeout
counts as killed.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
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

#: Another seed chooses others; the figures in CONTRIBUTING.md are of this one.
SEED = 14


def modules() -> Iterator[tuple[Path, dict[str, int | None]]]:
    """Return the path of each module, and the exit codes of its mutants: none of those that were not run."""
    for path in sorted(Path("mutants").rglob("*.meta")):
        if codes := json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]:
            yield path.relative_to("mutants").with_suffix(""), codes


def sample(count: int) -> None:
    """Make the mutants, and print the names of some of each module."""
    from mutmut import __main__ as mutmut

    with redirect_stdout(sys.stderr):
        mutmut.set_mutant_under_test("mutant_generation")
        Path("mutants").mkdir(exist_ok=True)
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.create_mutants(1)
    for _, codes in modules():
        print(*random.Random(SEED).sample(sorted(codes), min(count, len(codes))))


def results(minima: dict[str, float]) -> None:
    """Print the figures."""
    folders: dict[str, Counter[str]] = {}
    survivors: list[str] = []
    for path, codes in modules():
        ends = {
            name: KILLED.get(code) or SURVIVED.get(code) or "not run"
            for name, code in codes.items()
            if code is not None
        }
        if not ends:
            continue
        counted = Counter(ends.values())
        folders.setdefault(path.parent.name, Counter()).update(counted)
        survivors += [name for name, end in ends.items() if end not in KILLED.values()]
        print(f"{path!s:55} {figure(counted)}")
    for name in survivors:
        print("  survived:", name)
    for folder, counted in folders.items():
        print(f"{folder:55} {figure(counted)}")
    missed = [
        f"Fewer than {minimum:g} % of the mutants of {folder}/ were killed."
        for folder, minimum in minima.items()
        if not (counted := folders.get(folder)) or 100 * killed(counted) < minimum * counted.total()
    ]
    if missed:
        sys.exit("\n".join(missed))


def killed(counted: Counter[str]) -> int:
    """Return the number of killed mutants."""
    return sum(counted[end] for end in set(KILLED.values()))


def figure(counted: Counter[str]) -> str:
    """Format the results."""
    rest = ", ".join(f"{count} {end}" for end, count in sorted(counted.items()) if end != "killed")
    return f"{killed(counted):5} of {counted.total():5} = {100 * killed(counted) / counted.total():5.1f} %  ({rest})"


if __name__ == "__main__":
    if sys.argv[1] == "sample":
        sample(int(sys.argv[2]))
    else:
        results(
            {folder: float(minimum) for folder, _, minimum in (word.partition("=") for word in sys.argv[2:])}
        )
