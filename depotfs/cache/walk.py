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
LEAST: Final = 1 << 20
"""Bytes that may be ahead of a walk which has used hardly any."""
WALKERS: Final = 4
BEGINNERS: Final = 2
"""Walks that are followed at once in one order, and of those that may still be none: with many, a use of files in no
order at all would look like walks."""
_SLOWLY: Final = 4
"""Steps for one more file ahead, of a walk that was once too slow for what was ahead of it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a walk has come.

    Attributes:
        place: of the furthest file that was used, in the order.
        steps: how often it went on to a following file.
        ahead: up to here files were asked for.
        reach: files that may be ahead of it, no more than it has used: whoever stops wastes at most as much.
        used: bytes of the files that it has used.
        slow: what was ahead of it was too old once when it came to be used.
    """

    place: int = -1
    steps: int = 0
    ahead: int = 0
    reach: int = 1
    used: int = 0
    slow: bool = False

    @property
    def steady(self) -> bool:
        return self.steps >= PATIENCE

    def goes_on_at(self, place: int) -> bool:
        """Whether the use of the file at that place can be a step of this walk, or was one already."""
        return self.place >= 0 and -SKIPPED <= place - self.place < max(self.ahead - self.place, 1) + SKIPPED


def closest(walks: tuple[Walk, ...], place: int) -> Walk | None:
    """The walk that comes by that place; None: a use of that file begins another one."""
    going = (walk for walk in walks if walk.goes_on_at(place))
    return min(going, key=lambda walk: abs(place - walk.place), default=None)


def renewed(walks: tuple[Walk, ...], old: Walk | None, new: Walk) -> tuple[Walk, ...]:
    """The walks with `new` in the place of `old`, the latest first; those that went on longest ago are forgotten."""
    latest = (new, *(walk for walk in walks if walk is not old))
    steady, beginners = [w for w in latest if w.steady][:WALKERS], [w for w in latest if not w.steady][:BEGINNERS]
    return tuple(walk for walk in latest if walk in steady or walk in beginners)


def step(walk: Walk, place: int, size: int = 0) -> Walk:
    """The walk after the use of the file at that place: gone on, still where it was, or a new one.

    Args:
        size: bytes of that file.
    """
    if not walk.goes_on_at(place):
        return Walk(place, 0, place + 1, used=size)
    if place <= walk.place:
        return walk
    steps = walk.steps + 1
    grown = 0 if walk.slow and steps % _SLOWLY else 1
    ahead = max(walk.ahead, place + 1)
    return replace(walk, place=place, steps=steps, ahead=ahead, reach=walk.reach + grown, used=walk.used + size)


def withdrawn(walk: Walk) -> Walk:
    """The walk when what was fetched ahead of it is worth nothing any more: it is fetched again, half as far ahead."""
    reach = min(walk.reach, walk.ahead - walk.place) // 2
    return replace(walk, ahead=walk.place + 1, reach=max(1, reach), slow=True)


def plan(walk: Walk, count: int, size: Callable[[int], int] | None, files: int = FILES) -> tuple[Walk, range]:
    """The walk with the places whose files are to be fetched for it now.

    Args:
        count: files in the order.
        size: bytes to fetch of the file at a place; None: hardly any.
        files: files that may be ahead.
    """
    if not walk.steady:
        return walk, range(0)
    stop = end = max(walk.ahead, min(count, walk.place + 1 + min(files, walk.reach)))
    if size is not None:
        left = min(BYTES, max(LEAST, walk.used)) - sum(map(size, range(walk.place + 1, walk.ahead)))
        stop = walk.ahead
        while stop < end and (left := left - size(stop)) >= 0:
            stop += 1
    return replace(walk, ahead=stop), range(walk.ahead, stop)
