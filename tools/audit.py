"""
Look the installed packages up in an advisory database: ``make audit``.

Status 1 if a package that this one depends on directly has a known vulnerability. What others bring along is
told, and is theirs to mend. Where the database cannot be reached nothing is known: that is said aloud, with
status 0, since a gate must not depend on somebody else's server.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from typing import Any

DISTRIBUTION = "airflow-provider-seedance"


def normal(name: str) -> str:
    """Return a name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(requirements: list[str]) -> set[str]:
    """Return the names of what is required without asking for an extra."""
    plain = [one for one in requirements if "extra ==" not in one]
    return {normal(found[0]) for one in plain if (found := re.match(r"[A-Za-z0-9._-]+", one))}


def judge(report: dict[str, Any], ours: set[str]) -> tuple[list[str], bool]:
    """Return what to say of a report, and whether something of ours is in it."""
    lines, bad = [], False
    for package in report.get("dependencies", []):
        for found in package.get("vulns", []):
            mine = normal(package["name"]) in ours
            bad = bad or mine
            fixed = ", ".join(found.get("fix_versions") or []) or "none yet"
            whose = "DIRECT" if mine else "indirect"
            lines.append(f"{whose}: {package['name']} {package['version']}: {found['id']} (fixed in {fixed})")
    return sorted(lines), bad


def skipped(why: str) -> int:
    """Say that nothing is known."""
    print(f"SKIPPED: the dependencies were NOT audited: {why}")
    return 0


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "20"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return skipped("the advisory database did not answer in five minutes")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        return skipped(said[-1][:300] if said else f"pip-audit ended with status {done.returncode}")
    ours = direct(importlib.metadata.requires(DISTRIBUTION) or [])
    lines, bad = judge(report, ours)
    print("\n".join(lines) or "no known vulnerability")
    print(f"{len(report.get('dependencies', []))} packages audited, {len(ours)} of them direct dependencies")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
