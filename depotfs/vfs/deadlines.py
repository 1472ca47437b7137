"""Answers in time: a change whose storage does not answer goes on by itself, and its caller is told so.

The kernel holds the directory of an unlink or rename until it is answered, and everybody else who wants a name in
it waits. What becomes of the change later is as after a lost reply.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import outcome
import trio

from depotfs.errors import StorageUnavailable

T = TypeVar("T")

BYTES_PER_SECOND: Final = 1 << 20
"""What a line is taken to carry at least: a rename that stores content has so much more time."""
_log = logging.getLogger(__name__)


async def answer_within(seconds: float, work: Callable[[], Awaitable[T]], *, nursery: trio.Nursery, what: str) -> T:
    """What `work` gives or raises, if it does within so many seconds; it is never cancelled.

    Args:
        nursery: where it goes on if it takes longer.
        what: names it, for the error and the log.
    Raises:
        StorageUnavailable: it goes on; how it ends is in the log.
    """
    done = trio.Event()
    ended: list[outcome.Outcome[T]] = []

    async def run() -> None:
        ended.append(await outcome.acapture(work))
        done.set()
        if late:
            result = ended[0]
            _log.warning("%s ended late: %s", what, result.error if isinstance(result, outcome.Error) else "done")

    late = False
    nursery.start_soon(run)
    with trio.move_on_after(seconds):
        await done.wait()
    if not ended:
        late = True
        raise StorageUnavailable(f"{what} was not answered within {seconds:g} s; it goes on")
    return ended[0].unwrap()
