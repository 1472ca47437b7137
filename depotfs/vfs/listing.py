"""One open directory of a storage: the storage's own listing, merged with what only this mount knows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import trio

from depotfs.catalog import Catalog
from depotfs.remote.remote import RemoteListing
from depotfs.types import FileEntry, FileId
from depotfs.vfs import tree
from depotfs.vfs.ahead import Ahead
from depotfs.vfs.nodes import FileNode
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
        self._question = self._stack.enter_context(volume.question())
        self._pages: RemoteListing | None = volume.remote.listing()
        self._page: Sequence[FileEntry] = ()
        self._seen = 0.0
        self._next_entry = 0
        unsaved = {node.file_id.encode(): node for node in volume.unsaved()}
        self._own = sorted({**unsaved, **volume.scratch}.items(), key=lambda pair: pair[0], reverse=True)
        self._index = 0
        self._current: tuple[bytes, FileNode] | None = None

    async def at(self, index: int) -> tuple[bytes, FileNode] | None:
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

    async def _resolved(self, name: bytes) -> tuple[bytes, FileNode] | None:
        node = await tree.find(self.volume, name)
        return None if node is None else (name, node)

    def taken(self) -> None:
        """The current entry was handed to the kernel."""
        self._current = None
        self._index += 1

    def close(self) -> None:
        self._stack.close()

    async def _following(self) -> tuple[bytes, FileNode] | None:
        while True:
            entry = await self._peek()
            if self._own and (entry is None or self._own[-1][0] <= entry.file_id.encode()):
                name, node = self._own.pop()
                if entry is not None and entry.file_id.encode() == name:
                    self._next_entry += 1
                there = await self._still(name, node)
                if there is not None:
                    return name, there
                continue
            if entry is None:
                return None
            self._next_entry += 1
            found = await self._node_of(entry)
            if found is not None:
                return entry.file_id.encode(), found

    async def _still(self, name: bytes, node: FileNode) -> FileNode | None:
        """The node that this name, known to this mount when the listing began, leads to now."""
        volume = self.volume
        if volume.scratch.get(name) is node:
            return node
        file_id = FileId(name.decode())
        if file_id in volume.nodes or file_id in volume.hidden or file_id not in self._question.disturbed:
            return volume.nodes.get(file_id)
        stat = await volume.ask(file_id)  # committed meanwhile, and forgotten
        return volume.adopt(stat) if stat is not None else None

    async def _peek(self) -> FileEntry | None:
        while self._next_entry >= len(self._page):
            if self._pages is None:
                return None
            seen = trio.current_time()
            page = await self._pages.next_page()
            if page is None:
                self._pages = None
                return None
            self._page, self._next_entry, self._seen = self._completed(page), 0, seen
        return self._page[self._next_entry]

    def _completed(self, page: Sequence[FileEntry]) -> Sequence[FileEntry]:
        """The page, with what the catalog knows of entries that tell too little."""
        wanted = [(entry.file_id, entry.revision) for entry in page if entry.stat is None and entry.revision]
        self._ahead.expect([entry.file_id for entry in page])
        if not wanted:
            return page
        known = self._catalog.find_many(self.volume.remote.identity, wanted)
        return [FileEntry(entry.file_id, stat=stat) if (stat := known.get(entry.file_id)) else entry for entry in page]

    async def _node_of(self, entry: FileEntry) -> FileNode | None:
        volume = self.volume
        hidden = volume.hidden.get(entry.file_id)
        if hidden is not None and entry.file_id not in volume.nodes:
            if volume.agrees(hidden, entry):
                return None
            stat = await volume.ask(entry.file_id)
            return None if volume.hides(entry.file_id, stat) or stat is None else volume.adopt(stat)
        if any(node.file_id == entry.file_id for node in volume.scratch.values()):
            return None  # just being committed: it is listed by its scratch name
        if entry.file_id not in self._question.disturbed:
            return volume.adopt_entry(entry, self._seen)
        # This mount changed it after the page was made: the entry is worth nothing.
        node = volume.nodes.get(entry.file_id)
        if node is not None:
            return node
        stat = await volume.ask(entry.file_id)
        return volume.adopt(stat) if stat is not None else None
