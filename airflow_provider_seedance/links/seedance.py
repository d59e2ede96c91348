"""The link from a task instance to its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

#: Key of the XCom that Airflow reads for the link.
OUTPUT_LINK_KEY = "_link_SeedanceOutputLink"


class SeedanceOutputLink(BaseOperatorLink):
    """
    Link to the first output of the generation at the service.

    Read from the task's XCom; the address stops working when the service says so, the stored copy of an
    upload task does not.
    """

    name = "Output"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the URL of the output, or nothing while there is none."""
        # Airflow asks at the end of each process of the task, also of one that deferred: then there is no
        # XCom yet, and looking for it would leave an error in the worker's log.
        url: Any = getattr(operator, "output_url", None)
        if url is None:
            result = XCom.get_value(ti_key=ti_key, key="return_value")
            url = result.get("url") if isinstance(result, dict) else None
        # Nothing else may stand behind a button: the URL is data from outside.
        return url if isinstance(url, str) and url.startswith(("http://", "https://")) else ""
