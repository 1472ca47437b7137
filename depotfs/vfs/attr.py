"""What stat(2) shows."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from depotfs.types import InodeNo
from depotfs.vfs.nodes import DirectoryNode, FileNode
from depotfs.vfs.options import VolumeOptions


@dataclass(slots=True)
class Attr:
    """Attributes of a node, as the kernel is told.

    Attributes:
        node_id: the kernel's handle on the node; ino: the number that users see.
        size: bytes; times: nanoseconds since the epoch; timeouts: seconds.
    """

    node_id: InodeNo
    ino: InodeNo
    mode: int
    links: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    entry_timeout: float
    attr_timeout: float


def of_file(node: FileNode) -> Attr:
    """Of a file; what is not known exactly is not for the kernel to keep."""
    options = node.volume.options
    dirty, known, entry = node.dirty, node.stat, node.entry
    if dirty is not None:
        mtime_ns = dirty.modified * 10**9
        # While nothing is changed the storage's time of change still holds.
        ctime_ns = mtime_ns if dirty.changed or known is None else known.changed_ns
    elif known is not None:
        mtime_ns, ctime_ns = known.metadata.modified * 10**9, known.changed_ns
    else:
        mtime_ns = ctime_ns = (entry.changed_ns if entry else None) or 0
    # An entry reply can only show the node id as inode number; where that is another one, stat(2) has to ask.
    exact = node.node_id == node.ino and (dirty is not None or known is not None)
    timeout = options.attr_timeout
    return Attr(
        node.node_id, node.ino, stat.S_IFREG | options.file_mode, 1, node.size, options.uid, options.gid,
        mtime_ns, ctime_ns, timeout, timeout if exact else 0.0,
    )  # fmt: skip


def of_directory(node: DirectoryNode, options: VolumeOptions, mtime_ns: int, subdirectories: int) -> Attr:
    """Of the root or of a storage's directory."""
    return Attr(
        node.node_id, node.node_id, stat.S_IFDIR | options.dir_mode, 2 + subdirectories, 4096, options.uid, options.gid,
        mtime_ns, mtime_ns, options.attr_timeout, options.attr_timeout,
    )  # fmt: skip
