"""Sphinx configuration of the site: ``make docs``. Code hosts show the same Markdown pages."""

from __future__ import annotations

import atexit
import os
import tempfile

from airflow_provider_seedance import __version__

# Importing Airflow creates directories in AIRFLOW_HOME.
_home = tempfile.TemporaryDirectory(prefix="airflow-docs-", ignore_cleanup_errors=True)
atexit.register(_home.cleanup)
os.environ["AIRFLOW_HOME"] = _home.name

project = "airflow-provider-seedance"
author = "The airflow-provider-seedance maintainers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]

# ---------------------------------------------------------------------- pages

source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# Anchors of headings (`page.md#heading`), as on code hosts.
myst_heading_anchors = 4

# ---------------------------------------------------------------------- reference

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
# Every reference to a name of this package must resolve.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!airflow_provider_seedance).*|.*\._\w+|.*\.emulator\..*|.*\.CancellingTrigger"),
    # Types of the engine, in signatures of the faces: they are not part of the reference.
    (r"py:class", r"airflow_provider_seedance\.(client|apis|polling|redaction)\..*"),
]

# ---------------------------------------------------------------------- look

html_theme = "furo"
html_title = f"airflow-provider-seedance {version}"
html_show_copyright = False
html_show_sphinx = False
