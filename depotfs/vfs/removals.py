"""unlink(2): a name goes, and with it what only that name led to."""

from __future__ import annotations

import logging
from typing import Final

from depotfs.vfs.commits import Commits
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.writing import Writing

_log = logging.getLogger(__name__)
_MOST_REFUSED: Final = 1000
"""Process groups and directories remembered as told: one `rm *` is one of them, whatever it names."""


class Removals:
    """Ends the lives of files on this mount's own account."""

    def __init__(self, writing: Writing, commits: Commits) -> None:
        self._writing = writing
        self._commits = commits
        self._refused: set[tuple[int, str]] = set()

    def note_refused(self, directory: str, node: FileNode, group: int) -> None:
        """The log says, once for each process group and directory, why it may not unlink by id, and what to do."""
        if (group, directory) in self._refused:
            return
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused.add((group, directory))
        _log.warning(
            "unlink of %s/%s is refused: its process group, %d, used that file by its plain name; tools that mirror a "
            "folder see ids here and would delete what they copied. Mirror without deletion; remove files by the plain "
            "names that were used, or from another process group (setsid rm ...). Further refusals to this one in this "
            "directory are not logged",
            directory, node.file_id, group,
        )  # fmt: skip

    async def unlink(self, node: FileNode) -> None:
        """The file is gone here and in the storage; open handles go on, their bytes are never committed.

        Raises: AccessDenied, StorageUnavailable …: nothing has changed.
        """
        volume = node.volume
        async with node.lock:
            if node.life is not Life.LIVE:
                return
            if _may_be_stored(node) and not volume.needed_by_another(node, node.file_id):
                await self._writing.preserve(node)
                self._writing.stage(volume)
                volume.disturb(node.file_id)
                try:
                    await volume.remote.remove(node.file_id)
                except BaseException:
                    self._writing.give_back(node)
                    raise
                finally:
                    volume.disturb(node.file_id)
            self.end(node, Life.UNLINKED)

    def end(self, node: FileNode, life: Life) -> None:
        """The node's life is over: what it has in the spool is not going anywhere."""
        self._commits.pending.cancel(node)
        node.volume.end(node, life)
        if node.dirty is not None:
            node.dirty.discard()
            if not node.handles:
                node.dirty.file.close()
                node.dirty = None
        node.volume.settle(node)


def _may_be_stored(node: FileNode) -> bool:
    """Whether the storage has something under its id, as far as we know: a commit that failed may have landed."""
    return node.stored or node.base is not None or (node.dirty is not None and bool(node.dirty.attempts))
