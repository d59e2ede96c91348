"""Standard output for the result of a command only, because programs read it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def result_stream() -> Iterator[TextIO]:
    """
    Return standard output for the result, and send all else that is printed to standard error.

    By the number of the file, too: Airflow's loggers keep the stream that they found when they were set up. A caller
    that replaced standard output by a stream in memory gets the result there.
    """
    sys.stdout.flush()
    try:
        sys.stdout.fileno()
    except io.UnsupportedOperation:
        stream = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
        return
    with os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding) as result:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield result
        finally:
            sys.stdout.flush()
            os.dup2(result.fileno(), 1)
