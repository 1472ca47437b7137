"""Read-ahead across files: how a program goes through a directory, and which files it will want next. Pure functions.

A directory's files have an order; whoever uses them one by one in that order walks. `tar`, `rsync` and `ls` walk
in the order of the listing, `cp -r` in that of the inode numbers (coreutils and gnulib sort by them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

PATIENCE: Final = 2
"""Steps before anything is fetched ahead: two files that happen to be neighbours are no walk yet."""
SKIPPED: Final = 4
"""Files that a walk may pass over, or come back to: programs leave some out, or use several at once."""
FILES: Final = 64
"""Files ahead, at most: at 20 ms a file, enough for some 3,000 files a second."""
BYTES: Final = 16 << 20
"""Their content together, at most: what is lost when the walk ends."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a walk has come.

    Attributes:
        place: of the furthest file that was used, in the order.
        steps: how often it went on to a following file.
        ahead: up to here files were asked for.
    """

    place: int = -1
    steps: int = 0
    ahead: int = 0

    @property
    def steady(self) -> bool:
        return self.steps >= PATIENCE


def step(walk: Walk, place: int) -> Walk:
    """The walk after the use of the file at that place: gone on, still where it was, or a new one."""
    if -SKIPPED <= place - walk.place <= 0:
        return walk
    if walk.place >= 0 and walk.place < place < max(walk.ahead, walk.place + 1) + SKIPPED:
        return Walk(place, walk.steps + 1, max(walk.ahead, place + 1))
    return Walk(place, 0, place + 1)


def plan(walk: Walk, count: int, size: Callable[[int], int], files: int = FILES) -> tuple[Walk, range]:
    """The walk with the places whose files are to be fetched for it now: none at first, twice as many at each step.

    Args:
        count: files in the order.
        size: bytes to fetch of the file at a place.
        files: files that may be ahead.
    """
    if not walk.steady:
        return walk, range(0)
    end = min(count, walk.place + 1 + min(files, 2 << min(walk.steps - PATIENCE, 10)))
    left = BYTES - sum(map(size, range(walk.place + 1, walk.ahead)))
    stop = walk.ahead
    while stop < end and (left := left - size(stop)) >= 0:
        stop += 1
    return replace(walk, ahead=stop), range(walk.ahead, stop)
