"""The guide to testing: the files of the page, in an empty project and with an empty database of Airflow."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_project import ROOT, run_pytest

from airflow_provider_seedance.version_compat import AIRFLOW_V_3_2_PLUS


def test_the_guide_is_green_word_for_word_in_an_empty_project(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "testing-your-dags.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.py)`[^`]*:\n\n```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(files) == 4
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if not AIRFLOW_V_3_2_PLUS:  # as the page says
            code = code.replace('{{ run_id }}"', '{{ run_id }}", deferrable=False')
        (tmp_path / name).write_text(code)
    # Airflow 3.1 warns of its own modules.
    assert "3 passed" in run_pytest(tmp_path, *(() if AIRFLOW_V_3_2_PLUS else ("-W", "default")))
