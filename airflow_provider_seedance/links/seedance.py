"""The link from a task instance to its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator


class SeedanceOutputLink(BaseOperatorLink):
    """
    Opens the first output of the generation at the service.

    Read from the task's XCom; the address stops working when the service says so, the stored copy of an
    upload task does not.
    """

    name = "Output"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the URL of the output, or nothing while there is none."""
        result = XCom.get_value(ti_key=ti_key, key="return_value")
        url = result.get("url") if isinstance(result, dict) else None
        return url if isinstance(url, str) and url.startswith(("http://", "https://")) else ""
