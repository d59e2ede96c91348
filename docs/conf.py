"""How the site is built: ``make docs``. The pages are plain Markdown, which a code host shows as well."""

from __future__ import annotations

import atexit
import os
import tempfile

from airflow_provider_seedance import __version__

# Airflow makes directories where it is imported; whoever builds the docs keeps theirs as they are.
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
# Links to headings (`page.md#heading`) as code hosts have them.
myst_heading_anchors = 4

# ---------------------------------------------------------------------- reference

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
# Our own names have to lead somewhere; those of others are theirs.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!airflow_provider_seedance).*|.*\._\w+|.*\.emulator\..*|.*\.CancellingTrigger")
]

# ---------------------------------------------------------------------- look

html_theme = "furo"
html_title = f"airflow-provider-seedance {version}"
html_show_copyright = False
html_show_sphinx = False
