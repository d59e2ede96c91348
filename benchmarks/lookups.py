"""A secrets backend that counts the look-ups of connections and has none."""

from __future__ import annotations

import os

from airflow.secrets import BaseSecretsBackend


class CountingBackend(BaseSecretsBackend):
    """Secrets backend that writes one byte for each look-up into the file that ``BENCHMARK_LOOKUPS`` names."""

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Count, and leave the answer to the next backend."""
        with open(os.environ["BENCHMARK_LOOKUPS"], "ab") as file:
            file.write(b".")
        return None
