"""Runs seeds until one fails, and shrinks that: `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial

from tests.simulation import plan
from tests.simulation.run import Result, run
from tests.simulation.shrink import shrunk


def main() -> int:
    """The exit code: 1 if a seed failed."""
    _fix_hashes()
    arguments = _arguments()
    features = frozenset((*plan.FEATURES, *plan.CHECKS)) - set(arguments.without.split(","))
    if arguments.settled:
        features -= set(plan.UNSETTLED)
    begun = time.monotonic()
    done = failed = 0
    for seed, result in _results(arguments, features, begun):
        done += 1
        if result.violation is None:
            continue
        failed += 1
        _tell(plan.case(seed, features, arguments.kind), result, arguments)
        if not arguments.go_on:
            break
    seconds = time.monotonic() - begun
    print(f"{done} seeds, {failed} of them failed, in {seconds:.0f} s: {done / seconds:.1f} a second")
    return 1 if failed else 0


def _results(arguments: argparse.Namespace, features: frozenset[str], begun: float) -> Iterator[tuple[int, Result]]:
    attempt = partial(_attempt, features=features, kind=arguments.kind)
    seeds = range(arguments.begin, arguments.begin + arguments.seeds)
    if arguments.jobs == 1:
        yield from _in_time(map(attempt, seeds), arguments, begun)
        return
    with multiprocessing.Pool(arguments.jobs) as pool:
        yield from _in_time(pool.imap_unordered(attempt, seeds, chunksize=8), arguments, begun)


def _in_time(
    results: Iterable[tuple[int, Result]], arguments: argparse.Namespace, begun: float
) -> Iterator[tuple[int, Result]]:
    end = begun + arguments.minutes * 60
    return itertools.takewhile(lambda _: not arguments.minutes or time.monotonic() < end, results)


def _attempt(seed: int, features: frozenset[str], kind: str) -> tuple[int, Result]:
    return seed, run(plan.case(seed, features, kind))


def _tell(case: plan.Case, result: Result, arguments: argparse.Namespace) -> None:
    print(f"seed {case.settings.seed}: {result.violation}", flush=True)
    if arguments.trace:
        print("\n".join(result.lines))
    if arguments.shrink:
        smaller = shrunk(case, result)
        found = run(smaller)
        print(f"shrunk to {len(smaller.operations)} operations: {found.violation}")
        print("\n".join(map(str, smaller.operations)))
        print("\n".join(found.lines))
        print(smaller.dump(), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", dest="begin", type=int, default=0, help="the first one")
    parser.add_argument("--minutes", type=float, default=0.0, help="at most; 0: as long as it takes")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--without", default="", help=f"what to leave out: {','.join((*plan.FEATURES, *plan.CHECKS))}")
    parser.add_argument("--kind", choices=plan.KINDS, default="", help="of storage; else each seed has its own")
    parser.add_argument("--settled", action="store_true", help=f"leave out {','.join(plan.UNSETTLED)}")
    parser.add_argument("--go-on", action="store_true", help="after a failure")
    parser.add_argument("--trace", action="store_true", help="print what happened in a seed that failed")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="print failures as they are")
    return parser.parse_args()


def _fix_hashes() -> None:
    """The order of sets is the same in each process."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})


if __name__ == "__main__":
    sys.exit(main())
