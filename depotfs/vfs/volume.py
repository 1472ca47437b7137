"""A storage as it is mounted: what is known of it, and which of its files are known here.

Lock order, of all of `vfs`: `renaming` of a volume, then the target's file lock, then the source's, then none. Whoever
needs the content of a moved file out of the way takes that one's lock first, and alone (`Committer.make_way`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from depotfs.errors import TooLarge
from depotfs.remote.remote import Remote
from depotfs.types import FileEntry, FileId, FileStat
from depotfs.vfs.directory import Directory
from depotfs.vfs.file import File, FileLock, Life
from depotfs.vfs.knowledge import Knowledge
from depotfs.vfs.leftovers import Leftovers
from depotfs.vfs.names import NameRules
from depotfs.vfs.nodes import NodeTable
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.own_changes import OwnChanges


class Volume:
    """One configured storage below the mountpoint.

    Attributes:
        directory: which file is shown where.
        knowledge: what was asked of the storage.
        own_changes: what this mount stored and removed.
        leftovers: what is still stored though it is gone here.
        renaming: held by a rename, so that two never wait for each other's files.
        mtime_ns: when an entry came, went or was renamed.
    """

    def __init__(self, name: str, remote: Remote, options: VolumeOptions, table: NodeTable) -> None:
        self.name = name
        self.remote = remote
        self.options = options
        storage = remote.storage
        free_ids = storage.is_id("no canonical id")
        self.rules = NameRules(storage.id_form, options.scratch, free_ids)
        self.table = table
        self.directory = Directory()
        self.knowledge = Knowledge(remote, options.attr_timeout)
        self.own_changes = OwnChanges()
        self.leftovers = Leftovers(remote, self.knowledge, self.own_changes, name)
        self.renaming = FileLock()
        self.mtime_ns = time.time_ns()

    def note_names_changed(self) -> None:
        """An entry of the directory came, went or was renamed: that is what its own time tells."""
        self.mtime_ns = time.time_ns()

    def check_size(self, size: int) -> None:
        """Raises TooLarge if the storage holds no file of that size."""
        limit = self.remote.storage.max_size
        if limit is not None and size > limit:
            raise TooLarge(f"{self.remote.identity} holds files of up to {limit} bytes")

    # --- what is known of files ----------------------------------------------------------------------------------

    def is_fresh(self, file: File) -> bool:
        """Whether what is known of the file may be told without asking."""
        return file.is_ours or (file.stat is not None and trio.current_time() < file.fresh_until)

    def is_known(self, file_id: FileId) -> bool:
        """Whether the attributes of what is stored under that id may be told without asking."""
        file = self.directory.find(file_id)
        return self.is_fresh(file) if file is not None else self.knowledge.find_heard(file_id) is not None

    def find_known(self, file_id: FileId) -> File | None:
        """The file under that id, if what is known of it may be told without asking."""
        file = self.directory.find(file_id)
        if file is not None:
            return file if self.is_fresh(file) else None
        heard = self.knowledge.find_heard(file_id)
        return None if heard is None or self.is_doubtful(file_id) else self.adopt(heard.stat, heard.at)

    def is_doubtful(self, file_id: FileId) -> bool:
        """Whether what is stored under that id, where no file is shown, may be shown elsewhere, or gone here."""
        hidden = self.directory.find(file_id) is None and self.directory.find_moved(file_id) is not None
        return hidden or bool(self.leftovers.marks_of(file_id))

    def is_known_absent(self, file_id: FileId) -> bool:
        """Whether nothing is shown under that id, and the storage need not be asked, within attr_timeout."""
        moved = self.directory.find_moved(file_id)
        if self.directory.find(file_id) is not None:
            return False
        if moved is not None:
            return moved.draft is not None or moved.lock.locked() or trio.current_time() < moved.fresh_until
        return self.knowledge.is_absent(file_id)

    def adopt(self, stat: FileStat, seen: float | None = None) -> File:
        """The live file of what the storage was seen to have like this, at trio time `seen` (None: now)."""
        file = self.directory.find(stat.file_id)
        if file is not None and not self._has_same_content(file, stat):
            self.end(file, Life.CHANGED_ELSEWHERE)
            self.settle(file)
            file = None
        if file is None:
            file = self.add(stat.file_id)
        if file.draft is None and not file.moved:
            self.know(file, stat, seen)
        return file

    def adopt_entry(self, entry: FileEntry, seen: float) -> File:
        """As `adopt`, of what a listing told at trio time `seen`; what is known better already is kept."""
        known = self.find_known(entry.file_id)
        if known is not None:
            return known
        if entry.stat is not None:
            return self.adopt(entry.stat, seen)
        file = self.directory.find(entry.file_id)
        if file is None:
            file = self.add(entry.file_id)
        if self.agrees(file, entry):
            file.fresh_until = seen + self.options.attr_timeout
        elif file.stat is None:
            file.entry = entry
        return file  # one known otherwise is asked for again; if its content changed its life ends then

    @staticmethod
    def _has_same_content(file: File, stat: FileStat) -> bool:
        if file.is_ours:
            return True  # its commit finds out whether what it is based on is still there
        return file.stat is None or file.stat.version == stat.version

    @staticmethod
    def agrees(file: File, entry: FileEntry) -> bool:
        """Whether a listing tells of just what is known of the file."""
        return file.stat is not None and entry.revision is not None and file.stat.revision == entry.revision

    def know(self, file: File, stat: FileStat, seen: float | None = None) -> None:
        """`stat` is what the storage has of the file, as of trio time `seen` (None: now)."""
        self.directory.know(file, stat)
        file.entry = None
        file.fresh_until = (trio.current_time() if seen is None else seen) + self.options.attr_timeout
        if file.content is not None and file.content.key[2] == stat.version:
            file.content.rebase(stat)

    def hides(self, file_id: FileId, stat: FileStat | None) -> bool:
        """Whether what the storage was just seen to have under that id is shown elsewhere, or gone here.

        A file that was shown elsewhere, and is not what the storage has any more, is over.
        """
        if self.leftovers.hides(stat):
            return True
        moved = self.directory.find_moved(file_id)
        if moved is None:
            return False
        if moved.draft is not None or moved.lock.locked():
            return True
        if stat is not None and moved.stat is not None and moved.stat.version == stat.version:
            self.know(moved, stat)
            return True
        self.end(moved, Life.CHANGED_ELSEWHERE)
        self.settle(moved)
        return False

    # --- lives ---------------------------------------------------------------------------------------------------

    def add(self, file_id: FileId, scratch: bytes | None = None) -> File:
        """A new life under that id."""
        file = File(self, file_id, scratch)
        self.table.add(file)
        self.directory.enter(file)
        self.knowledge.note_present(file_id)
        return file

    def end(self, file: File, life: Life) -> None:
        """The file is not what its id leads to any more; its handles go on reading what they read."""
        if file.live:
            self.directory.end(file, life)

    def settle(self, file: File) -> None:
        """Lets go of what nobody needs: the open content without handles, and at last the file itself."""
        if file.handles or file.pins:
            return
        draft = file.draft
        if draft is not None and not file.lock.locked():
            if not file.live:
                draft.file.close()  # discarded when it was unlinked, or held when it lost a race
                file.draft = None
            elif not draft.changed:
                draft.drop()
                file.draft = None
            else:
                draft.park()
        if file.content is not None:
            file.content.close()
            file.content = None
        if file.idle:
            self.directory.forget(file)
            self.table.drop(file)

    @contextmanager
    def pinned(self, *files: File | None) -> Iterator[None]:
        """While inside, these files are not forgotten."""
        for file in files:
            if file is not None:
                file.pins += 1
        try:
            yield
        finally:
            for file in files:
                if file is not None:
                    file.pins -= 1
                    self.settle(file)

    def check_invariants(self) -> None:
        """AssertionError if what this volume knows contradicts itself."""
        self.directory.check_invariants()
        for file in self.directory:
            assert self.table.find(file.node_id) is file, file
            assert not file.idle, file
            if file.draft is not None:
                file.draft.check_invariants()
