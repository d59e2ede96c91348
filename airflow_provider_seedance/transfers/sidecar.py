"""Sidecars: JSON files beside stored outputs, by which a file accounts for itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import airflow_provider_seedance
from airflow_provider_seedance.generations import Generation, iso, utc_now
from airflow_provider_seedance.ledger import read_prompt
from airflow_provider_seedance.storage.location import StorageLocation
from airflow_provider_seedance.storage.writers import open_writer
from airflow_provider_seedance.transfers.verification import Findings, requested

#: Appended to the name of the file.
SUFFIX = ".json"

#: Term of the IPTC for media that a trained model made, which labels of AI media use.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_REQUESTED = (
    *("model", "duration", "resolution", "aspect_ratio", "fps", "seed", "generate_audio"),
    *("num_images", "output_format"),
)


def describe(
    generation: Generation, index: int, file: Mapping[str, Any], findings: Findings | None
) -> dict[str, Any]:
    """
    Return the content of a sidecar. It has no key and no URL, which may be signed.

    :param index: Position of the output among those of its generation, from 1.
    :param file: Name, length and hash of the file.
    :param findings: ``None`` if nothing looked into the file.
    """
    arguments = {name: requested(generation, name) for name in _REQUESTED}
    header = findings.header if findings else None
    return {
        "file": dict(file),
        "ai_generated": True,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "request": {"prompt": read_prompt(generation), **arguments},
        "service": generation.api,
        "model": generation.model,
        "generation_id": generation.generation_id,
        "output": {"index": index, "of": len(generation.urls)},
        "created_at": iso(generation.created_at),
        "completed_at": iso(generation.completed_at),
        "stored_at": iso(utc_now()),
        "credits": generation.credits,
        "cost_usd": generation.cost_usd,
        "findings": {
            "verified": findings is not None,
            "header": asdict(header) if header else None,
            "problems": list(findings.problems) if findings else [],
        },
        "written_by": f"airflow-provider-seedance {airflow_provider_seedance.__version__}",
    }


def write_sidecar(location: StorageLocation, content: Mapping[str, Any], *, exclusive: bool) -> None:
    """
    Write a sidecar.

    :param exclusive: Fail if it exists.
    :raises SeedanceDestinationExistsError: it exists, and may not be replaced.
    :raises SeedanceMediaError: it could not be written; a retry helps.
    """
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    with open_writer(location, exclusive=exclusive) as writer:
        writer.write(text.encode("utf-8", "backslashreplace"))
        writer.commit()
