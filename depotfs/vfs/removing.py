"""Removing: unlink(2), by which a name goes, and with it what only that name led to."""

from __future__ import annotations

import logging
from typing import Final

from depotfs.errors import DepotError, VersionChanged
from depotfs.types import ANY, Expected, FileId
from depotfs.vfs.committing import Committer
from depotfs.vfs.drafts import Drafts
from depotfs.vfs.file import File, Life
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)
_MOST_REFUSED: Final = 1000
"""Process groups and directories remembered as told: one `rm *` is one of them, whatever it names."""


class Removing:
    """Ends the lives of files on this mount's own account."""

    def __init__(self, drafts: Drafts, committer: Committer) -> None:
        self._drafts = drafts
        self._committer = committer
        self._refused: set[tuple[int, str]] = set()

    def note_refused(self, directory: str, file: File, group: int) -> None:
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
            directory, file.file_id, group,
        )  # fmt: skip

    async def unlink(self, file: File) -> None:
        """The file is gone here and in the storage; open handles go on, their bytes are never committed.

        Raises: AccessDenied, StorageUnavailable …: nothing has changed here; the storage was looked at after a doubt.
        """
        async with file.lock:
            if not file.live:
                return
            file.leaving = True
            try:
                await self._remove_stored(file)
            except BaseException:
                self._drafts.give_back(file)
                file.fresh_until = -1.0
                raise
            finally:
                file.leaving = False
            self.end(file, Life.UNLINKED)

    async def _remove_stored(self, file: File) -> None:
        """Nothing is stored of the file any more, but what another one needs."""
        volume, stat, draft = file.volume, file.stat, file.draft
        await self._drafts.preserve(file)
        self._drafts.stage(volume)
        if file.moved and stat is not None:
            await self._remove_unless_needed(file, stat.file_id, stat.version)
            if file.over is not None:
                await self._remove_unless_needed(file, file.file_id, file.over.version)
        elif _may_be_stored(file):
            await self._remove_unless_needed(file, file.file_id, ANY)
        if draft is not None and draft.may_have_landed:
            self._committer.abandon_attempts(file, draft, None if file.moved else file.file_id)
            await self._committer.sweep(volume)

    async def _remove_unless_needed(self, file: File, file_id: FileId, expect: Expected) -> None:
        volume = file.volume
        if volume.directory.is_needed(file_id, beside=file):
            return
        with volume.knowledge.changing(file_id):
            try:
                await volume.remote.remove(file_id, expect=expect)
                if file.stat is not None:
                    volume.own_changes.note_removed(file_id, file.stat.version)
            except VersionChanged:
                return  # what is there now is somebody else's
            except (DepotError, OSError):
                if await _is_stored(volume, file_id):
                    raise

    def replace(self, file: File) -> None:
        """The file's life is over since a rename put another one in its place, which is stored there or will be."""
        if file.moved and file.stat is not None:
            self._committer.abandon(file, file.stat)
        if file.draft is not None:
            self._committer.abandon_attempts(file, file.draft, file.file_id)
        self.end(file, Life.RENAMED_OVER)

    def end(self, file: File, life: Life) -> None:
        """The file's life is over: what it has in the spool is not going anywhere."""
        self._committer.queue.cancel(file)
        file.volume.end(file, life)
        if file.draft is not None:
            file.draft.discard()
            if not file.handles:
                file.draft.file.close()
                file.draft = None
        file.volume.settle(file)


def _may_be_stored(file: File) -> bool:
    """Whether the storage has something of it, as far as is known: a commit that failed may have landed."""
    return file.stored or file.base is not None or (file.draft is not None and file.draft.may_have_landed)


async def _is_stored(volume: Volume, file_id: FileId) -> bool:
    """Whether the storage has something under that id, or does not say: after an error nobody knows what happened."""
    try:
        return await volume.remote.find(file_id) is not None
    except (DepotError, OSError):
        return True
