"""A storage as it is mounted: its nodes by file id, and what keeps answers that were overtaken from being believed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from depotfs.catalog import Catalog
from depotfs.errors import TooLarge
from depotfs.remote.remote import Remote
from depotfs.types import FileEntry, FileId, FileStat
from depotfs.vfs.names import NameRules
from depotfs.vfs.nodes import FileNode, Life, NodeLock, NodeTable
from depotfs.vfs.options import VolumeOptions

_MOST_ABSENT = 10_000
"""Ids remembered as absent: what a copy of many files leaves behind within a second."""


@dataclass(eq=False)
class Question:
    """Something that was asked of the storage and is not answered yet.

    Attributes:
        disturbed: file ids that this mount changed after the question was asked: the answer on these is worth nothing.
    """

    disturbed: set[FileId] = field(default_factory=set)


class Volume:
    """One configured storage below the mountpoint.

    Attributes:
        nodes: the live node of each file id that is known.
        hidden: files renamed to a scratch name, by the id under which the storage still has them: their id is free
            for a new file, their content is reached by the scratch name.
        catalog: remembers over restarts what the storage was asked and answered; None: nothing does.
        renaming: held by a rename, so that two never wait for each other's nodes.
        scratch: nodes reachable by a scratch name only.
    """

    def __init__(self, name: str, remote: Remote, options: VolumeOptions, table: NodeTable) -> None:
        self.name = name
        self.remote = remote
        self.options = options
        storage = remote.storage
        free_ids = storage.is_id("no canonical id")
        self.rules = NameRules(storage.id_form, options.scratch, free_ids)
        self.table = table
        self.nodes: dict[FileId, FileNode] = {}
        self.hidden: dict[FileId, FileNode] = {}
        self.scratch: dict[bytes, FileNode] = {}
        self.catalog: Catalog | None = None
        self.renaming = NodeLock()
        self.mtime_ns = time.time_ns()
        self._questions: set[Question] = set()
        self._stats: dict[FileId, StatRequest] = {}
        self._absent: dict[FileId, float] = {}

    # --- answers that were overtaken ---------------------------------------------------------------------------

    @contextmanager
    def question(self) -> Iterator[Question]:
        """While inside, changes by this mount are noted on the question."""
        question = Question()
        self._questions.add(question)
        try:
            yield question
        finally:
            self._questions.discard(question)

    def disturb(self, *file_ids: FileId) -> None:
        """This mount changed these files: call it when a change begins to show in the storage, and when it is done."""
        for file_id in file_ids:
            self._absent.pop(file_id, None)
        for question in self._questions:
            question.disturbed.update(file_ids)

    async def ask(
        self, file_id: FileId, request_of: Callable[[FileId], Awaitable[FileStat | None]] | None = None
    ) -> FileStat | None:
        """What the storage has under that id, None for nothing; one request, shared by all who ask meanwhile.

        An answer that a change of this mount overtook is asked for again.

        Args:
            request_of: makes the request if none is under way; the remote's `find` by default.
        """
        if self.remote.inline:
            return await self.remote.find(file_id)  # answered at once: nothing can overtake it
        while True:
            with self.question() as question:
                request = self._stats.get(file_id)
                if request is None:
                    request = self._stats[file_id] = StatRequest()
                    try:
                        request.answer = await (request_of or self.remote.find)(file_id)
                        request.valid = file_id not in question.disturbed
                        if request.valid and request.answer is not None and self.catalog is not None:
                            self.catalog.remember(self.remote.identity, [request.answer])
                    finally:
                        del self._stats[file_id]
                        request.done.set()
                else:
                    await request.done.wait()
            # Who only waited hears of the answer later than who asked.
            if request.valid and file_id not in question.disturbed:
                return request.answer

    def names_changed(self) -> None:
        """An entry of the directory came, went or was renamed: that is what its own time tells."""
        self.mtime_ns = time.time_ns()

    def note_absent(self, file_ids: Iterable[FileId]) -> None:
        """The storage was just seen to have none of these: within attr_timeout nobody needs to ask again."""
        if len(self._absent) > _MOST_ABSENT:
            self._absent.clear()
        until = trio.current_time() + self.options.attr_timeout
        self._absent.update(dict.fromkeys(file_ids, until))

    def is_known_absent(self, file_ids: Iterable[FileId]) -> bool:
        """Whether none of them is in the storage or known here, within attr_timeout."""
        now = trio.current_time()
        return all(self._absent.get(i, -1.0) > now and i not in self.nodes for i in file_ids)

    def check_size(self, size: int) -> None:
        """Raises TooLarge if the storage holds no file of that size."""
        limit = self.remote.storage.max_size
        if limit is not None and size > limit:
            raise TooLarge(f"{self.remote.identity} holds files of up to {limit} bytes")

    # --- nodes ---------------------------------------------------------------------------------------------------

    def is_fresh(self, node: FileNode) -> bool:
        """Whether what is known of the node may be told without asking."""
        if node.dirty is not None or node.scratch is not None or node.lock.locked():
            return True
        return node.stat is not None and trio.current_time() < node.fresh_until

    def adopt(self, stat: FileStat, seen: float | None = None) -> FileNode:
        """The live node of a file that the storage was seen to have like this, at trio time `seen` (None: now)."""
        node = self.nodes.get(stat.file_id)
        if node is not None and not self._same_content(node, stat):
            self.end(node, Life.OVERTAKEN)
            self.settle(node)
            node = None
        if node is None:
            node = self.add(stat.file_id)
        if node.dirty is None:
            self.know(node, stat, seen)
        return node

    def adopt_entry(self, entry: FileEntry, seen: float) -> FileNode:
        """As `adopt`, of what a listing told at trio time `seen`; what is known better already is kept."""
        node = self.nodes.get(entry.file_id)
        if node is not None and self.is_fresh(node):
            return node
        if entry.stat is not None:
            return self.adopt(entry.stat, seen)
        if node is None:
            node = self.add(entry.file_id)
        if self.agrees(node, entry):
            node.fresh_until = seen + self.options.attr_timeout
        elif node.stat is None:
            node.entry = entry
        return node  # one known otherwise is asked for again; if its content changed its life ends then

    def add(self, file_id: FileId, scratch: bytes | None = None) -> FileNode:
        """A new life under that id, or reachable by that scratch name only."""
        node = FileNode(self, file_id)
        self.table.add(node)
        self._absent.pop(file_id, None)
        if scratch is None:
            self.nodes[file_id] = node
        else:
            node.scratch = scratch
            self.scratch[scratch] = node
        return node

    def know(self, node: FileNode, stat: FileStat, seen: float | None = None) -> None:
        """`stat` is what the storage has of the node, as of trio time `seen` (None: now)."""
        node.stat = stat
        node.entry = None
        node.fresh_until = (trio.current_time() if seen is None else seen) + self.options.attr_timeout
        if node.reading is not None and node.reading.key[2] == stat.version:
            node.reading.rebase(stat)

    def end(self, node: FileNode, life: Life) -> None:
        """The node is not what its id leads to any more; its handles go on reading what they read."""
        node.life = life
        if self.nodes.get(node.file_id) is node:
            del self.nodes[node.file_id]
        if self.hidden.get(node.file_id) is node:
            del self.hidden[node.file_id]
        if node.scratch is not None and self.scratch.get(node.scratch) is node:
            del self.scratch[node.scratch]

    def settle(self, node: FileNode) -> None:
        """Lets go of what nobody needs: the open content without handles, and at last the node itself."""
        if node.handles or node.pins:
            return
        dirty = node.dirty
        if dirty is not None and not node.lock.locked():
            if node.life is not Life.LIVE:
                dirty.file.close()  # discarded when it was unlinked, or held when it lost a race
                node.dirty = None
            elif not dirty.changed:
                dirty.drop()
                node.dirty = None
        if node.reading is not None:
            node.reading.close()
            node.reading = None
        if not node.idle:
            return
        if self.nodes.get(node.file_id) is node:
            del self.nodes[node.file_id]
        self.table.drop(node)

    def is_known_hidden(self, file_id: FileId) -> bool:
        """Whether all that the storage has under that id is reached by a scratch name, within attr_timeout."""
        node = self.hidden.get(file_id)
        if node is None:
            return False
        return node.dirty is not None or node.lock.locked() or trio.current_time() < node.fresh_until

    def hides(self, file_id: FileId, stat: FileStat | None) -> bool:
        """Whether what the storage was just seen to have under that id is reached by a scratch name.

        A file that was reached so, and is not what the storage has any more, is over.
        """
        node = self.hidden.get(file_id)
        if node is None:
            return False
        if node.dirty is not None or node.lock.locked():
            return True
        if stat is not None and self._same_content(node, stat):
            self.know(node, stat)
            return True
        self.end(node, Life.OVERTAKEN)
        self.settle(node)
        return False

    def needed_by_another(self, node: FileNode, file_id: FileId) -> bool:
        """Whether what the storage has under that id is also another file's.

        A file that was renamed to a scratch name, or one that was made under its id since and will replace it.
        """
        made = (other for other in self.scratch.values() if other.file_id == file_id)
        others = (self.nodes.get(file_id), self.hidden.get(file_id), *made)
        return any(other is not None and other is not node for other in others)

    @contextmanager
    def pinned(self, *nodes: FileNode | None) -> Iterator[None]:
        """While inside, these nodes are not forgotten."""
        for node in nodes:
            if node is not None:
                node.pins += 1
        try:
            yield
        finally:
            for node in nodes:
                if node is not None:
                    node.pins -= 1
                    self.settle(node)

    def unsaved(self) -> Iterable[FileNode]:
        """Nodes that a listing of the storage may lack though they exist here."""
        return [node for node in self.nodes.values() if node.dirty is not None and node.scratch is None]

    @staticmethod
    def _same_content(node: FileNode, stat: FileStat) -> bool:
        if node.dirty is not None or node.lock.locked():
            return True  # its commit finds out whether what it is based on is still there
        if node.stat is not None:
            return node.stat.version == stat.version
        return True

    @staticmethod
    def agrees(node: FileNode, entry: FileEntry) -> bool:
        """Whether a listing tells of just what is known of the node."""
        return node.stat is not None and entry.revision is not None and node.stat.revision == entry.revision


class StatRequest:
    """One `stat` under way."""

    __slots__ = ("answer", "done", "valid")

    def __init__(self) -> None:
        self.answer: FileStat | None = None
        self.valid = False
        self.done = trio.Event()
