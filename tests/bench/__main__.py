"""`python -m tests.bench [--quick] [local] [s3] [gridfs]`: how fast depotfs is beside what else does the same work.

Everything is measured in one run, in turn; only the ratios mean something. It tells, it never fails.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.local import bench_local
from tests.bench.measure import Row, show
from tests.bench.remote import bench_gridfs, bench_s3
from tests.bench.scale import FULL, QUICK, Scale

BENCHES: dict[str, Callable[[Path, Scale], Iterator[Row]]] = {
    "local": bench_local,
    "s3": bench_s3,
    "gridfs": bench_gridfs,
}


def main() -> None:
    """Prints the table, line by line as it comes to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="what to measure; everything without")
    parser.add_argument("--quick", action="store_true", help="little data, three rounds: whether it works at all")
    parser.add_argument("--directory", help="where the data is built; a temporary directory without")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    for name in arguments.names or BENCHES:
        directory = Path(tempfile.mkdtemp(prefix="depotfs-bench-", dir=arguments.directory)).resolve()
        try:
            for row in BENCHES[name](directory, scale):
                show(row)
        except pytest.skip.Exception as reason:
            print(f"{name}: {reason}")
        finally:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
