"""One open directory of a storage: the storage's own listing, merged with what only this mount knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import trio

from depotfs.catalog import Catalog
from depotfs.remote.remote import RemoteListing
from depotfs.types import FileEntry, FileId
from depotfs.vfs import lookup
from depotfs.vfs.ahead import Ahead
from depotfs.vfs.file import File
from depotfs.vfs.volume import Volume


class Listing:
    """Entries in byte order, produced as they are read; a reader that goes back begins anew.

    Args:
        catalog: what is known of files whose listing tells less than their stat.
        ahead: is told the order, so that files can be fetched before they are asked for.
    """

    def __init__(self, volume: Volume, catalog: Catalog, ahead: Ahead) -> None:
        self.volume = volume
        self._catalog = catalog
        self._ahead = ahead
        self._stack = ExitStack()
        self._restart()

    def _restart(self) -> None:
        volume = self.volume
        self._stack.close()
        self._asking = self._stack.enter_context(volume.knowledge.asking())
        self._pages: RemoteListing | None = volume.remote.listing()
        self._page: Sequence[FileEntry] = ()
        self._after: FileId | None = None
        self._seen = 0.0
        self._next_entry = 0
        own = [file for file in volume.directory if file.draft is not None or file.scratch is not None]
        self._own = sorted(((_name_of(file), file) for file in own), key=lambda pair: pair[0], reverse=True)
        self._index = 0
        self._current: tuple[bytes, File] | None = None

    async def at(self, index: int) -> tuple[bytes, File] | None:
        """The (name, node) of that entry, None behind the last. Raises StorageUnavailable …"""
        if index < self._index:
            self._restart()
        if self._current is not None and self.volume.table.find(self._current[1].node_id) is not self._current[1]:
            # Its life ended while the kernel had no room for it.
            self._current = await self._resolved(self._current[0])
        while self._current is None or self._index < index:
            if self._current is not None:
                self.volume.settle(self._current[1])
                self._index += 1
            self._current = await self._following()
            if self._current is None:
                return None
        return self._current

    async def _resolved(self, name: bytes) -> tuple[bytes, File] | None:
        file = await lookup.find(self.volume, name)
        return None if file is None else (name, file)

    def taken(self) -> None:
        """The current entry was handed to the kernel."""
        self._current = None
        self._index += 1

    def close(self) -> None:
        self._stack.close()

    async def _following(self) -> tuple[bytes, File] | None:
        while True:
            entry = await self._peek()
            if self._own and (entry is None or self._own[-1][0] <= entry.file_id.encode()):
                name, file = self._own.pop()
                if entry is not None and entry.file_id.encode() == name:
                    self._next_entry += 1
                there = await self._still(name, file)
                if there is not None:
                    return name, there
                continue
            if entry is None:
                return None
            self._next_entry += 1
            found = await self._file_of(entry)
            if found is not None:
                return entry.file_id.encode(), found

    async def _still(self, name: bytes, file: File) -> File | None:
        """The file that this name, known to this mount when the listing began, leads to now."""
        if self.volume.directory.find(file.file_id) is file and _name_of(file) == name:
            return file
        return await lookup.find(self.volume, name)

    async def _peek(self) -> FileEntry | None:
        while self._next_entry >= len(self._page):
            if self._pages is None:
                return None
            seen = trio.current_time()
            page = await self._pages.next_page()
            if page is None:
                self._pages = None
                self._ahead.expect((), self._after)
                return None
            self._page, self._next_entry, self._seen = self._completed(page), 0, seen
        return self._page[self._next_entry]

    def _completed(self, page: Sequence[FileEntry]) -> Sequence[FileEntry]:
        """The page, with what the catalog knows of entries that tell too little."""
        wanted = [(entry.file_id, entry.revision) for entry in page if entry.stat is None and entry.revision]
        if page:
            self._ahead.expect(page, self._after)
            self._after = page[-1].file_id
        if not wanted:
            return page
        known = self._catalog.find_many(self.volume.remote.identity, wanted)
        return [FileEntry(entry.file_id, stat=stat) if (stat := known.get(entry.file_id)) else entry for entry in page]

    async def _file_of(self, entry: FileEntry) -> File | None:
        """The file that an entry of the storage's listing leads to, None where it is not shown by its id."""
        volume, file_id = self.volume, entry.file_id
        file = volume.directory.find(file_id)
        if file is not None and file.scratch is not None:
            return None  # it is listed by its scratch name
        if file is None and (moved := volume.directory.find_moved(file_id)) is not None and volume.agrees(moved, entry):
            return None
        if file_id not in self._asking.changed and not volume.is_doubtful(file_id):
            return volume.adopt_entry(entry, self._seen)
        if file is not None:
            return file
        # This mount changed it after the page was made, or what is there may be gone here: the entry is worth nothing.
        stat = await volume.knowledge.ask(file_id)
        return None if volume.hides(file_id, stat) or stat is None else volume.adopt(stat)


def _name_of(file: File) -> bytes:
    """What the file is listed by."""
    return file.scratch if file.scratch is not None else file.file_id.encode()
