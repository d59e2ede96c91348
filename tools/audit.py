"""
Check the installed packages for known vulnerabilities: ``make audit``.

Status 1 if a direct dependency has a known vulnerability. Vulnerabilities of indirect dependencies are printed only.
If the advisory database cannot be reached, that is printed, with status 0: a merge must not depend on its server.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from typing import Any

DISTRIBUTION = "airflow-provider-seedance"


def normalized(name: str) -> str:
    """Return the normalized form of a package name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies(requirements: list[str]) -> set[str]:
    """Return the names of the requirements without extras."""
    plain = [one for one in requirements if "extra ==" not in one]
    return {normalized(found[0]) for one in plain if (found := re.match(r"[A-Za-z0-9._-]+", one))}


def summarize(report: dict[str, Any], ours: set[str]) -> tuple[list[str], bool]:
    """Return the lines to print, and whether a direct dependency is vulnerable."""
    lines, bad = [], False
    for package in report.get("dependencies", []):
        for found in package.get("vulns", []):
            is_direct = normalized(package["name"]) in ours
            bad = bad or is_direct
            fixed = ", ".join(found.get("fix_versions") or []) or "none yet"
            kind = "DIRECT" if is_direct else "indirect"
            lines.append(f"{kind}: {package['name']} {package['version']}: {found['id']} (fixed in {fixed})")
    return sorted(lines), bad


def skip(reason: str) -> int:
    """Print that there was no audit."""
    print(f"SKIPPED: the dependencies were NOT audited: {reason}")
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
        return skip("the advisory database did not answer in five minutes")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        return skip(said[-1][:300] if said else f"pip-audit ended with status {done.returncode}")
    ours = direct_dependencies(importlib.metadata.requires(DISTRIBUTION) or [])
    lines, bad = summarize(report, ours)
    print("\n".join(lines) or "no known vulnerability")
    print(f"{len(report.get('dependencies', []))} packages audited, {len(ours)} of them direct dependencies")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
