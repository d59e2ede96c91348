"""
Check that the built site explains every public name.

    python tools/check_reference.py build/docs
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Compare what modules define with what the site has."""
    site = Path(sys.argv[1])
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    explained = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    missing, count = [], 0
    for name in re.findall(r"automodule:: (\S+)", pages):
        for public in public_names(name):
            count += 1
            if public not in explained:
                missing.append(public)
    if missing:
        sys.exit(f"The reference lacks {', '.join(missing)}")
    print(f"All {count} public names are in the reference.")


def public_names(module: str) -> list[str]:
    """Return what a module exports, or defines without an underscore, and the public members of its classes."""
    members = vars(import_module(module))
    exported = members.get("__all__") or [
        name
        for name, value in members.items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module
    ]
    found = [f"{module}.{name}" for name in exported]
    for name in exported:
        value = getattr(import_module(module), name)
        if isinstance(value, type):
            found += [
                f"{module}.{name}.{member}"
                for member, function in vars(value).items()
                if not member.startswith("_") and callable(function) and getattr(function, "__doc__", None)
            ]
    return found


if __name__ == "__main__":
    main()
