"""
Freeze the stored forms of a release: ``python tests/stored_forms/freeze.py``.

Writes ``tests/stored_forms/<version>.json``, which every later release has to read.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="airflow-stored-forms-", ignore_cleanup_errors=True) as home:
        os.environ["AIRFLOW_HOME"] = home
        sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
        from airflow_provider_seedance import __version__
        from stored_forms.samples import FROZEN_PORT, collect

        forms = collect(Path(home), port=FROZEN_PORT)
    path = HERE / f"{__version__}.json"
    path.write_text(json.dumps(forms, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
