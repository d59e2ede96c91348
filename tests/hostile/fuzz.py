"""
Fuzz every reader of untrusted bytes, guided by coverage: ``make fuzz``, or ``make fuzz SECONDS=3600``.

Needs atheris. The exit status is 0 without a finding. Otherwise the input is kept in the work
directory; give its file name to this program to reproduce the finding.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("inputs", nargs="*", help="files to run once each, instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--work", type=Path, help="directory of the corpus and the findings")
    options = parser.parse_args()

    home = tempfile.TemporaryDirectory(prefix="airflow-fuzz-", ignore_cleanup_errors=True)
    os.environ.setdefault("AIRFLOW_HOME", home.name)
    sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

    import atheris

    logging.disable(logging.CRITICAL)

    with atheris.instrument_imports(include=["airflow_provider_seedance"]):
        from hostile import samples, targets

    for name in options.inputs:
        targets.run(Path(name).read_bytes())
    if options.inputs:
        return
    work = options.work or Path(tempfile.mkdtemp(prefix="seedance-fuzz-"))
    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds()):
        (corpus / f"seed-{number:04}").write_bytes(seed)
    print(f"{len(targets.TARGETS)} readers, {options.seconds} s, in {work}", flush=True)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            "-max_len=4096",
            "-timeout=60",  # a hang is a finding
            "-rss_limit_mb=2048",  # so is unbounded memory
            f"-dict={samples.DICTIONARY}",
            f"-artifact_prefix={work}/finding-",
            "-print_final_stats=1",
            str(corpus),
        ],
        targets.run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
