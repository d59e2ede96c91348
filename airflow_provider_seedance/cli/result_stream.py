"""Standard output for the result of a command only, because programs read it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def result_stream() -> Iterator[TextIO]:
    """
    Return standard output for the result, and send all else that is printed to standard error.

    By the number of the file, too: Airflow's loggers keep the stream that they found when they were set up.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding) as result:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield result
        finally:
            sys.stdout.flush()
            os.dup2(result.fileno(), 1)
