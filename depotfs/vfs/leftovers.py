"""Leftovers: what a storage still has though it is gone here, since its removal failed or was never heard of."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from depotfs.errors import DepotError
from depotfs.remote.remote import Remote
from depotfs.types import FileId, FileStat
from depotfs.vfs.knowledge import Knowledge
from depotfs.vfs.own_changes import OwnChanges

_log = logging.getLogger(__name__)
_LONGEST_DELAY: Final = 300.0


class Leftovers:
    """Contents by file id and by what tells them from anybody else's: a version, or the id of a commit of ours.

    They are not shown, and their removal is tried until it is heard of. A crash forgets them: then they show again.

    Attributes:
        remote: the storage.
    """

    def __init__(self, remote: Remote, knowledge: Knowledge, own_changes: OwnChanges, name: str) -> None:
        self.remote = remote
        self._knowledge = knowledge
        self._own_changes = own_changes
        self._name = name
        self._marks: dict[FileId, set[str]] = {}
        self._failures = 0

    def __len__(self) -> int:
        return len(self._marks)

    @property
    def retry_delay(self) -> float:
        """Seconds until they are looked at again."""
        return float(min(_LONGEST_DELAY, 2 ** min(self._failures, 10)))

    def add(self, file_id: FileId, marks: Collection[str]) -> None:
        """What is stored under that id is to go, if its version or commit is one of these."""
        self._marks.setdefault(file_id, set()).update(marks)

    def forget(self, file_id: FileId) -> None:
        """The id is in use again: whatever is stored there will be replaced, on terms that are checked."""
        self._marks.pop(file_id, None)

    def marks_of(self, file_id: FileId) -> frozenset[str]:
        """The versions and commits that are to go from there."""
        return frozenset(self._marks.get(file_id, ()))

    def hides(self, stat: FileStat | None) -> bool:
        """Whether that is one of them."""
        return stat is not None and not {stat.version, stat.commit}.isdisjoint(self._marks.get(stat.file_id, ()))

    async def remove(self) -> bool:
        """Tries to remove all; False: some are left."""
        for file_id in list(self._marks):
            await self._remove(file_id)
        self._failures = self._failures + 1 if self._marks else 0
        return not self._marks

    async def _remove(self, file_id: FileId) -> None:
        with self._knowledge.changing(file_id):
            try:
                found = await self.remote.find(file_id)
                if found is not None and self.hides(found):
                    await self.remote.remove(file_id, expect=found.version)
                    self._own_changes.note_removed(file_id, found.version)
            except (DepotError, OSError) as error:
                _log.warning("%s/%s is still stored though it was removed or renamed: %s", self._name, file_id, error)
                return
        self._marks.pop(file_id, None)
