"""The queue of commits that are to come: when each is due, and the task that makes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from depotfs.vfs.file import File
from depotfs.vfs.leftovers import Leftovers
from depotfs.vfs.missing import Missing

_log = logging.getLogger(__name__)

PARALLEL = 8
"""Commits under way at once: enough to fill a line with 20 ms of latency by small files."""


Owing = File | Leftovers | Missing
"""What owes something to its storage, be it a question."""


class CommitQueue:
    """Files, and what else storages are owed, by the time at which it is due.

    Args:
        commit: makes one commit; False if it failed.
    """

    def __init__(self, commit: Callable[[Owing], Awaitable[bool]]) -> None:
        self._commit = commit
        self._due: dict[Owing, float] = {}
        self._running: set[Owing] = set()
        self._watching: list[set[Owing]] = []
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def schedule(self, owing: Owing, delay: float) -> None:
        """It is committed `delay` seconds from now; replaces what was scheduled before."""
        self._due[owing] = trio.current_time() + delay
        self._wake()

    def cancel(self, owing: Owing) -> None:
        """Nothing is scheduled for it."""
        if self._due.pop(owing, None) is not None:
            self._wake()

    def hurry(self, wanted: Callable[[Owing], bool]) -> None:
        """What is `wanted` of all that is scheduled is due now."""
        for owing in filter(wanted, list(self._due)):
            self.schedule(owing, 0)

    def scheduled(self) -> list[File]:
        """Files whose commit is to come or under way."""
        return [owing for owing in (*self._due, *self._running) if isinstance(owing, File)]

    def is_scheduled(self, owing: Owing) -> bool:
        return owing in self._due

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Makes commits as they fall due, until cancelled."""
        limiter = trio.CapacityLimiter(PARALLEL)
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                now = trio.current_time()
                for owing in [owing for owing, due in self._due.items() if due <= now]:
                    del self._due[owing]
                    self._running.add(owing)
                    nursery.start_soon(self._one, owing, limiter)
                with trio.move_on_at(min(self._due.values(), default=math.inf)):
                    await changed.wait()

    async def _one(self, owing: Owing, limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                done = await self._commit(owing)
            if not done:
                self._note_failed(owing)
        except Exception:  # none may end the others
            _log.exception("the commit of %r failed unexpectedly", owing)
            self._note_failed(owing)
        finally:
            self._running.discard(owing)
            self._wake()

    def _note_failed(self, owing: Owing) -> None:
        for failed in self._watching:
            failed.add(owing)

    async def drain(self, wanted: Callable[[Owing], bool]) -> int:
        """Every scheduled commit that is `wanted` was made, or failed once more, before this returns; how many did."""
        failed: set[Owing] = set()
        self._watching.append(failed)
        try:
            await self._drain(wanted)
        finally:
            self._watching = [other for other in self._watching if other is not failed]
        return sum(map(wanted, failed))

    async def _drain(self, wanted: Callable[[Owing], bool]) -> None:
        tried: set[Owing] = set()
        while True:
            for owing in list(self._due):
                if wanted(owing) and owing not in tried:
                    tried.add(owing)
                    self.schedule(owing, 0)
            changed = self._changed
            now = trio.current_time()
            waiting = [owing for owing in tried if owing in self._running or self._due.get(owing, math.inf) <= now]
            waiting += [owing for owing in self._running if wanted(owing)]
            if not waiting:
                return
            await changed.wait()
