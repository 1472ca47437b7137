"""Commits that are to come: when each is due, and the task that makes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from depotfs.vfs.nodes import FileNode

_log = logging.getLogger(__name__)

PARALLEL = 8
"""Commits under way at once: enough to fill a line with 20 ms of latency by small files."""


class Pending:
    """Nodes by the time at which their commit is due.

    Args:
        commit: makes one commit; False if it failed.
    """

    def __init__(self, commit: Callable[[FileNode], Awaitable[bool]]) -> None:
        self._commit = commit
        self._due: dict[FileNode, float] = {}
        self._running: set[FileNode] = set()
        self._watching: list[set[FileNode]] = []
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def schedule(self, node: FileNode, delay: float) -> None:
        """The node is committed `delay` seconds from now; replaces what was scheduled before."""
        self._due[node] = trio.current_time() + delay
        self._wake()

    def cancel(self, node: FileNode) -> None:
        """Nothing is scheduled for the node."""
        if self._due.pop(node, None) is not None:
            self._wake()

    def is_scheduled(self, node: FileNode) -> bool:
        return node in self._due

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
                for node in [node for node, due in self._due.items() if due <= now]:
                    del self._due[node]
                    self._running.add(node)
                    nursery.start_soon(self._one, node, limiter)
                with trio.move_on_at(min(self._due.values(), default=math.inf)):
                    await changed.wait()

    async def _one(self, node: FileNode, limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                done = await self._commit(node)
            if not done:
                self._note_failed(node)
        except Exception:  # none may end the others
            _log.exception("the commit of %r failed unexpectedly", node)
            self._note_failed(node)
        finally:
            self._running.discard(node)
            self._wake()

    def _note_failed(self, node: FileNode) -> None:
        for failed in self._watching:
            failed.add(node)

    async def drain(self, wanted: Callable[[FileNode], bool]) -> int:
        """Every scheduled commit that is `wanted` was made, or failed once more, before this returns; how many did."""
        failed: set[FileNode] = set()
        self._watching.append(failed)
        try:
            await self._drain(wanted)
        finally:
            self._watching = [other for other in self._watching if other is not failed]
        return sum(map(wanted, failed))

    async def _drain(self, wanted: Callable[[FileNode], bool]) -> None:
        tried: set[FileNode] = set()
        while True:
            for node in list(self._due):
                if wanted(node) and node not in tried:
                    tried.add(node)
                    self.schedule(node, 0)
            changed = self._changed
            now = trio.current_time()
            waiting = [node for node in tried if node in self._running or self._due.get(node, math.inf) <= now]
            waiting += [node for node in self._running if wanted(node)]
            if not waiting:
                return
            await changed.wait()
