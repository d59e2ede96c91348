"""
OpenLineage events of a task: its generations, their model and cost.

Without the OpenLineage provider nothing is reported and nothing is imported. Nothing here raises: a task that paid
for a generation does not fail because of its lineage. Prompts, URLs of the service and keys are not reported.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

log = logging.getLogger(__name__)

#: Maximum number of generations that are named.
MAX_NAMED = 100

#: Name of the facets; OpenLineage requires a prefix.
FACET = "seedance_generation"

#: OpenLineage's names of stores.
_STORES = {"": "file", "local": "file", "gcs": "gs", "s3a": "s3", "s3n": "s3"}


def of_generations(result: Mapping[str, Any] | None) -> Any:
    """
    Return the lineage of a task that generates: a dataset for each generation, and its cost.

    :param result: Result of the task, single or batch; ``None`` if it has none.
    """
    return _lineage(_generations, result)


def of_transfer(result: Mapping[str, Any] | None, made: Iterable[Any] = ()) -> Any:
    """
    Return the lineage of a transfer: from the generations to the file, or to the directory of many.

    :param result: Result of the task.
    :param made: The generations that were stored.
    """
    return _lineage(_transfer, result, made)


def _lineage(make: Any, result: Mapping[str, Any] | None, *rest: Any) -> Any:
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage

        # OpenLineage logs a warning for None.
        return make(result, *rest) if result else OperatorLineage()
    except ImportError as error:
        log.debug("No lineage: %s", error)
    except Exception as error:
        log.warning("The lineage of this task could not be reported: %s", error)
    return None


def _generations(result: Mapping[str, Any]) -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_seedance.observability import lineage_facets as facets

    single = "generation_id" in result
    made = [result] if single else list(result.get("succeeded") or [])
    facts = {
        **_facts(made),
        "credits": result.get("credits"),
        "costUsd": result.get("cost_usd"),
        "counts": dict(result.get("counts") or {}) or None,
        "manifest": _without_connection(result.get("manifest")),
    }
    return OperatorLineage(
        outputs=[_generation(one) for one in made[:MAX_NAMED]],
        run_facets={FACET: facets.SeedanceRunFacet(**facts)},
        job_facets={FACET: facets.SeedanceJobFacet(**facts)},
    )


def _transfer(result: Mapping[str, Any], made: Iterable[Any]) -> Any:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    from airflow_provider_seedance.observability import lineage_facets as facets

    results = [generation.result() for generation in made]
    facts = _facts(results)
    namespace, name = _stored_at(result)
    stored = facets.SeedanceDatasetFacet(
        **facts,
        credits=_sum(one["credits"] for one in results),
        costUsd=_sum(one["cost_usd"] for one in results),
        bytes=result.get("bytes"),
        sha256=list(result.get("sha256") or [])[:MAX_NAMED],
    )
    return OperatorLineage(
        inputs=[_generation(one) for one in results[:MAX_NAMED]],
        outputs=[Dataset(namespace=namespace, name=name, facets={FACET: stored})],
        job_facets={FACET: facets.SeedanceJobFacet(**facts)},
    )


def _generation(one: Mapping[str, Any]) -> Any:
    from openlineage.client.event_v2 import Dataset

    from airflow_provider_seedance.observability import lineage_facets as facets

    facet = facets.SeedanceDatasetFacet(
        **_facts([one]), credits=one.get("credits"), costUsd=one.get("cost_usd")
    )
    return Dataset(
        namespace=f"seedance://{one.get('api')}", name=str(one["generation_id"]), facets={FACET: facet}
    )


def _facts(made: list[Any]) -> dict[str, Any]:
    return {
        "api": _one(made, "api"),
        "model": _one(made, "model"),
        "generationIds": [str(one["generation_id"]) for one in made[:MAX_NAMED]],
        "generations": len(made),
    }


def _one(made: list[Any], name: str) -> str | None:
    found = sorted({str(one[name]) for one in made if one.get(name)})
    return ", ".join(found) or None


def _sum(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def _stored_at(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dataset of the stored files: the file, or the directory of several."""
    names = [dataset_name(str(path)) for path in result.get("paths") or ()]
    path = str(result["path"])
    if len(names) < 2 or path.endswith("/"):
        return dataset_name(path)
    # A generation with several outputs: its path is the first of them.
    return names[0][0], posixpath.commonpath([posixpath.dirname(name) for _, name in names]) or "/"


def dataset_name(path: str) -> tuple[str, str]:
    """
    Return namespace and name of a path, as OpenLineage names datasets in object storage.

    :param path: As Airflow's object storage shows it: the part before an ``@`` is a connection.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        scheme, rest = "", path
    scheme = _STORES.get(scheme, scheme)
    if scheme == "file":
        # The connection in file://connection@/path is not part of the name.
        name = rest[rest.find("/") :] if separator else rest
        return "file", name.rstrip("/") or "/"
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}", key.strip("/") or "/"


def _without_connection(path: Any) -> str | None:
    if not path:
        return None
    scheme, separator, rest = str(path).partition("://")
    if not separator:
        return scheme
    bucket, slash, key = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}{slash}{key}"
