"""Nodes: what the kernel knows by a number. The number of a node is its inode number too, as long as it lives."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from depotfs.types import InodeNo
from depotfs.vfs.file import File

if TYPE_CHECKING:
    from depotfs.vfs.volume import Volume

ROOT: Final = InodeNo(1)
_FIRST_SPARE: Final = 1 << 63
"""Node ids of later lives: above all derived numbers, whose top bit is clear."""


def stable_ino(*parts: str) -> InodeNo:
    """The inode number of (storage, file id): the same after a remount and in every alias; never 0, 1 or above 2^63."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return InodeNo((int.from_bytes(digest, "big") >> 1) | 2)


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
        self._nodes: dict[int, File | DirectoryNode] = {}
        self._spare = _FIRST_SPARE

    def get(self, node_id: int) -> File | DirectoryNode:
        """The node. KeyError: the kernel asked for a number that it was never given, or forgot."""
        return self._nodes[node_id]

    def find(self, node_id: int) -> File | DirectoryNode | None:
        """The node, None if there is none of that number."""
        return self._nodes.get(node_id)

    def add_directory(self, node: DirectoryNode) -> None:
        self._nodes[node.node_id] = node

    def add(self, file: File) -> None:
        """Gives it the number that is derived from its storage and id, or a spare one while another node holds that.

        So no two nodes share a number, though a file keeps its own when it is renamed.
        """
        file.node_id = stable_ino(file.volume.name, file.file_id)
        if file.node_id in self._nodes:
            self._spare += 1
            file.node_id = InodeNo(self._spare)
        self._nodes[file.node_id] = file

    def drop(self, file: File) -> None:
        if self._nodes.get(file.node_id) is file:
            del self._nodes[file.node_id]

    def files(self) -> list[File]:
        """All nodes of files, those whose life is over too."""
        return [node for node in self._nodes.values() if isinstance(node, File)]

    def __len__(self) -> int:
        return len(self._nodes)
