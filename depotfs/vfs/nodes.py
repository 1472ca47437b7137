"""Nodes: what the kernel knows by a number. A `FileNode` is one life of one stored file, a `DirectoryNode` a directory.

A life begins when the mount first hears of a file and ends when its content is replaced by something other than a
write through this node: by a rename over it, by an unlink, by a change in the storage. The kernel's page cache hangs
on the node id, so that cached pages never outlive the content they belong to.
"""

from __future__ import annotations

import enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import trio

from depotfs.types import FileEntry, FileId, FileStat, InodeNo

if TYPE_CHECKING:
    from depotfs.vfs.dirty import Dirty
    from depotfs.vfs.reading import Reading
    from depotfs.vfs.volume import Volume

ROOT: Final = InodeNo(1)
_FIRST_SPARE: Final = 1 << 63
"""Node ids of later lives: above all derived numbers, whose top bit is clear."""


def stable_ino(*parts: str) -> InodeNo:
    """The inode number of (storage, file id): the same after a remount and in every alias; never 0, 1 or above 2^63."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return InodeNo((int.from_bytes(digest, "big") >> 1) | 2)


class Life(enum.Enum):
    """What became of a file node."""

    LIVE = "live"
    UNLINKED = "unlinked"
    REPLACED = "replaced"
    """By a rename on this mount: handles go on as after an unlink."""
    OVERTAKEN = "overtaken"
    """Replaced or deleted in the storage by somebody else."""


class NodeLock:
    """trio's lock, but free it is taken without giving other tasks a turn: most requests never share a node.

    It is there while it is held only: 400 bytes for each of 100,000 listed files were a quarter of what they take.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.Lock()
            self._lock.acquire_nowait()
        else:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.release()
        if not self._lock.locked():  # else it is the next waiter's
            self._lock = None

    def locked(self) -> bool:
        """Whether anybody has it."""
        return self._lock is not None


class FileNode:
    """One life of a file.

    Attributes:
        node_id: what the kernel calls it; ino: what stat(2) shows.
        stat: what the storage has, as far as known; None for a file that is not stored, or `entry` alone is known.
        entry: what a listing told, where it did not tell all.
        fresh_until: trio time up to which `stat` need not be asked for again.
        scratch: the scratch name under which it is reachable (then not by its file id), None for all others.
        dirty: changed bytes that the storage does not have yet.
        reading: the open content of `stat`, while handles are open.
        lookups: the kernel's references; handles: open files; pins: calls that are at work with it.
        names: the (directory, name) pairs under which the kernel may have cached it.
        groups: process groups that used it by its plain name.
        lock: taken by whoever changes what the storage has of this file. Order: node locks by node id, then nothing.
    """

    __slots__ = (
        "dirty", "entry", "file_id", "fresh_until", "groups", "handles", "ino", "life", "lock", "lookups", "names",
        "node_id", "pins", "reading", "scratch", "stat", "volume",
    )  # fmt: skip

    def __init__(self, volume: Volume, file_id: FileId) -> None:
        self.volume = volume
        self.file_id = file_id
        self.ino = stable_ino(volume.name, file_id)
        self.node_id = InodeNo(0)
        self.stat: FileStat | None = None
        self.entry: FileEntry | None = None
        self.fresh_until = -1.0
        self.scratch: bytes | None = None
        self.dirty: Dirty | None = None
        self.reading: Reading | None = None
        self.life = Life.LIVE
        self.lookups = 0
        self.handles = 0
        self.pins = 0
        self.names: set[tuple[InodeNo, bytes]] = set()
        self.groups: frozenset[int] = frozenset()
        self.lock = NodeLock()

    def move_to(self, file_id: FileId) -> None:
        """It is known by that id from now on; the node id stays, as the kernel's entry does."""
        self.file_id = file_id
        self.ino = stable_ino(self.volume.name, file_id)

    @property
    def size(self) -> int:
        """Bytes, of what readers of this mount see."""
        if self.dirty is not None:
            return self.dirty.file.size
        if self.stat is not None:
            return self.stat.size
        return (self.entry.size if self.entry else None) or 0

    @property
    def stored(self) -> bool:
        """Whether the storage has a file under this id, as far as this mount knows."""
        return self.stat is not None or self.entry is not None

    @property
    def base(self) -> FileStat | None:
        """What the storage has under this id now, as far as known: what a commit of other content would replace."""
        return self.stat if self.stat is not None or self.dirty is None else self.dirty.base

    @property
    def idle(self) -> bool:
        """Whether nobody needs this object: it can be made anew from the storage."""
        return not (self.lookups or self.handles or self.pins or self.dirty or self.scratch)

    def __repr__(self) -> str:
        state = "dirty" if self.dirty else "clean"
        return f"<FileNode {self.volume.name}/{self.file_id} {self.life.value} {state} handles={self.handles}>"


class DirectoryNode:
    """The root (volume None), or the directory of a storage or alias."""

    __slots__ = ("lookups", "name", "node_id", "volume")

    def __init__(self, node_id: InodeNo, name: str, volume: Volume | None) -> None:
        self.node_id = node_id
        self.name = name
        self.volume = volume
        self.lookups = 0


class NodeTable:
    """All nodes by node id."""

    def __init__(self) -> None:
        self._nodes: dict[int, FileNode | DirectoryNode] = {}
        self._spare = _FIRST_SPARE

    def get(self, node_id: int) -> FileNode | DirectoryNode:
        """The node. KeyError: the kernel asked for a number that it was never given, or forgot."""
        return self._nodes[node_id]

    def find(self, node_id: int) -> FileNode | DirectoryNode | None:
        """The node, None if there is none of that number."""
        return self._nodes.get(node_id)

    def add_directory(self, node: DirectoryNode) -> None:
        self._nodes[node.node_id] = node

    def add(self, node: FileNode) -> None:
        """Gives it a node id: its inode number, or a spare one while an older life holds that."""
        node.node_id = node.ino
        if node.node_id in self._nodes:
            self._spare += 1
            node.node_id = InodeNo(self._spare)
        self._nodes[node.node_id] = node

    def drop(self, node: FileNode) -> None:
        if self._nodes.get(node.node_id) is node:
            del self._nodes[node.node_id]

    def __len__(self) -> int:
        return len(self._nodes)
