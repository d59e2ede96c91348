"""
OpenLineage events of a task: its generations, their model and cost.

Without the OpenLineage provider nothing is reported and nothing is imported. Nothing here raises: a task that paid
for a generation does not fail because of its lineage. Prompts, URLs of the service and keys are not reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)


def of_generations(result: Mapping[str, Any] | None) -> Any:
    """Return the lineage of a task that generates: a dataset for each generation, and its cost."""
    return _lineage(lambda facets: facets.of_generations(result) if result else facets.OperatorLineage())


def of_transfer(result: Mapping[str, Any] | None, made: Iterable[Any] = ()) -> Any:
    """Return the lineage of a transfer: from the generations to the file, or to the directory of many."""
    return _lineage(lambda facets: facets.of_transfer(result, made) if result else facets.OperatorLineage())


def _lineage(make: Callable[[Any], Any]) -> Any:
    try:
        # Optional: it needs the OpenLineage provider.
        from airflow_provider_seedance.observability import lineage_facets

        return make(lineage_facets)
    except ImportError as error:
        log.debug("No lineage: %s", error)
    except Exception as error:
        log.warning("The lineage of this task could not be reported: %s", error)
    return None
