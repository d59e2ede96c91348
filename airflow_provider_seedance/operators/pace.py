"""When a batch task comes back to a worker, and how often it says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Renders in flight at a time, where the Dag author names no number.
IN_FLIGHT = 100

#: The worker comes back when this share of ``max_in_flight`` has ended and others wait for their place, ...
REFILL = 0.25
#: ... or so many seconds after the first one ended, ...
LINGER_REFILL = 30.0
#: ... or, if there is only a line of the manifest to write, so many, ...
LINGER_MANIFEST = 60.0
#: ... or only a record.
LINGER = 300.0

#: ... or, if there are only results to be read again, when all are.
LINGER_UNREAD = 1e9

#: So often in a row a service may be unreachable while nothing is in flight, before the task fails.
MOST_UNREACHABLE = 5

#: Seconds between lines of progress while submitting.
PROGRESS = 30.0

#: Results without a manifest that are worth a hint in the log.
LARGE = 500


def every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that passes a call on now and then."""
    last = time.monotonic()

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
