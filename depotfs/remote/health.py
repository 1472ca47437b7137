"""Health: whether a storage can be reached, so that one that cannot be is not asked by everybody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from depotfs.errors import StorageUnavailable, mark_reported

_log = logging.getLogger(__name__)

FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 30.0
"""Seconds between two probes of a storage that is down, the first and the longest."""


class StorageDown(StorageUnavailable):
    """The storage could not be reached a moment ago, so that it was not asked; the log has told of it once."""

    transient = False


class Health:
    """Follows whether a storage answers. It is *down* from a probe that was not answered to one that was.

    A probe is made when a call has failed for want of an answer; other calls go on meanwhile. While the storage is
    down calls fail at once, and it is probed again and again.

    Args:
        name: the storage's, for the log.
        probe: asks the storage something cheap, once; ConnectionError: it did not answer.

    Attributes:
        came_back: called when the storage is not down any more.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        self._name = name
        self._probe = probe
        self._doubted = trio.Event()
        self._wanted = trio.Event()
        self._told = trio.Event()
        self._down: Exception | None = None
        self._since = 0.0
        self._failed = 0
        self.came_back: Callable[[], None] = lambda: None

    @property
    def down(self) -> str | None:
        """Why the storage cannot be reached; None: as far as is known, it can."""
        return None if self._down is None else str(self._down)

    @property
    def down_seconds(self) -> float:
        """For how long it has been down, 0 if it is not."""
        return 0.0 if self._down is None else trio.current_time() - self._since

    def check(self) -> None:
        """To be called before a call is made. Raises StorageDown."""
        if self._down is not None:
            self._failed += 1
            error = StorageDown(f"{self._name} is down for {self.down_seconds:.0f} s: {self._down}")
            mark_reported(error)
            raise error

    def doubt(self) -> None:
        """An attempt of a call was not answered: a probe tells whether others would be."""
        self._doubted.set()

    def note_failed(self) -> None:
        """A call has failed for want of an answer."""
        self._failed += 1

    async def run(self) -> None:
        """Probes the storage whenever there is a doubt, until cancelled. Without it, it is never down."""
        while True:
            await self._doubted.wait()
            delay = FIRST_DELAY
            while (error := await self._ask()) is not None:
                self._note_down(error)
                with trio.move_on_after(delay):
                    await self._wanted.wait()
                delay = min(2 * delay, LONGEST_DELAY)
            self._note_up()

    async def look(self) -> None:
        """What is known is of now: a storage that is down has been probed once more."""
        if self._down is not None:
            self._wanted.set()
            await self._told.wait()

    async def _ask(self) -> Exception | None:
        """Why the storage cannot be reached; None where it answered, whatever it said."""
        self._wanted = trio.Event()
        try:
            await self._probe()
        except ConnectionError as error:
            return error
        except Exception:
            return None
        return None

    def _note_down(self, error: Exception) -> None:
        if self._down is None:
            self._since = trio.current_time()
            _log.warning("%s is down, calls fail at once until it is back: %s", self._name, error)
        self._down = error
        self._tell()

    def _note_up(self) -> None:
        if self._down is not None:
            _log.warning("%s is back after %.0f s; %d calls failed", self._name, self.down_seconds, self._failed)
            self._down = None
            self.came_back()
        self._failed = 0
        self._doubted = trio.Event()
        self._tell()

    def _tell(self) -> None:
        self._told.set()
        self._told = trio.Event()
