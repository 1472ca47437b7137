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


class Deadlines:
    """Runs what must not be cancelled, and answers in its place when it takes too long."""

    def __init__(self) -> None:
        self._under_way: set[trio.Event] = set()

    async def run(self) -> None:
        """Makes it possible to answer, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    async def wait_all(self) -> None:
        """Nothing is under way that was answered late."""
        for done in list(self._under_way):
            await done.wait()

    async def answer_within(self, seconds: float, work: Callable[[], Awaitable[T]], what: str) -> T:
        """What `work` gives or raises, if it does within so many seconds; it is never cancelled.

        Args:
            what: names it, for the error and the log.
        Raises:
            StorageUnavailable: it goes on; how it ends is in the log.
        """
        done = trio.Event()
        ended: list[outcome.Outcome[T]] = []

        async def run() -> None:
            ended.append(await outcome.acapture(work))
            self._under_way.discard(done)
            done.set()
            if late:
                result = ended[0]
                _log.warning("%s ended late: %s", what, result.error if isinstance(result, outcome.Error) else "done")

        late = False
        self._under_way.add(done)
        self._nursery.start_soon(run)
        with trio.move_on_after(seconds):
            await done.wait()
        if not ended:
            late = True
            raise StorageUnavailable(f"{what} was not answered within {seconds:g} s; it goes on")
        return ended[0].unwrap()
