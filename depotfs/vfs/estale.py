"""Retries after ESTALE: whoever was refused a file because it had been replaced can open what its name leads to next.

Linux looks the name up again when open(2) is answered ESTALE, but only once: a second rename within one open would be
the program's error. So what that lookup shows is kept as if it were open already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from depotfs.errors import Stale
from depotfs.vfs.file import File, Life

_SOON: Final = 1.0
"""Seconds: the kernel comes back at once, if at all."""


class EstaleRetry:
    """Who was refused, and what is kept for them, by thread id.

    Args:
        prepare: opens a file's content; raises Stale if it was replaced.
    """

    def __init__(self, prepare: Callable[[File], Awaitable[None]]) -> None:
        self._prepare = prepare
        self._refused: dict[int, float] = {}
        self._kept: dict[int, File] = {}

    def refuse(self, pid: int) -> None:
        """That thread was told to look the name up again; 0, from another PID namespace, could be anybody."""
        now = trio.current_time()
        self._refused = {other: until for other, until in self._refused.items() if until > now}
        if pid:
            self._refused[pid] = now + _SOON

    def is_refused(self, pid: int) -> bool:
        """Whether the thread looks a name up because it was refused."""
        return bool(self._refused) and self._refused.get(pid, -1.0) > trio.current_time()

    async def run(self) -> None:
        """Makes it possible to keep anything, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    async def keep(self, file: File, pid: int) -> bool:
        """The file's content is open for the thread for a while; False: it was replaced again."""
        with file.volume.pinned(file):
            try:
                await self._prepare(file)
            except Stale:
                return False
            self._kept[pid] = file
            file.handles += 1
        self._nursery.start_soon(self._let_go, file, pid)
        return True

    def has(self, file: File, pid: int) -> bool:
        """Whether the thread may open what the file was: it was replaced after the thread looked its name up."""
        return self._kept.get(pid) is file and file.life in (Life.RENAMED_OVER, Life.UNLINKED)

    def done(self, pid: int) -> None:
        """The thread has opened a file."""
        self._refused.pop(pid, None)
        self._kept.pop(pid, None)

    async def _let_go(self, file: File, pid: int) -> None:
        try:
            await trio.sleep(_SOON)
        finally:
            if self._kept.get(pid) is file:
                del self._kept[pid]
            file.handles -= 1
            file.volume.settle(file)
