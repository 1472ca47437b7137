"""Own changes: what this mount stored and removed, so that it never takes what it did itself for somebody else's."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from depotfs.types import ABSENT, FileId, FileStat

_MOST: Final = 20_000
"""Changes remembered of each kind: those whose replies could be lost in one outage, some 4 MB."""


class OwnChanges:
    """Commits by their ids, and versions that were removed; the oldest are forgotten."""

    def __init__(self) -> None:
        self._commits: OrderedDict[str, FileId] = OrderedDict()
        self._removed: OrderedDict[tuple[FileId, str], None] = OrderedDict()

    def note_commit(self, file_id: FileId, commit: str) -> None:
        """A content is about to be stored there that other content of this mount may replace."""
        self._commits[commit] = file_id
        if len(self._commits) > _MOST:
            self._commits.popitem(last=False)

    def note_removed(self, file_id: FileId, version: str) -> None:
        """This mount removed that version."""
        self._removed[file_id, version] = None
        if len(self._removed) > _MOST:
            self._removed.popitem(last=False)

    def find_expected(self, file_id: FileId, expected: str, found: FileStat | None) -> str | None:
        """What a commit that expected something else may expect now, since this mount changed it; None: others did."""
        if found is None:
            return ABSENT if (file_id, expected) in self._removed else None
        return found.version if self._commits.get(found.commit) == file_id else None
