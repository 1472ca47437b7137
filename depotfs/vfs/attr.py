"""What stat(2) shows."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from depotfs.types import InodeNo
from depotfs.vfs.file import File
from depotfs.vfs.nodes import DirectoryNode
from depotfs.vfs.options import VolumeOptions


@dataclass(slots=True)
class Attr:
    """Attributes of a node, as the kernel is told.

    Attributes:
        node_id: the kernel's number of the node, and the inode number that users see.
        size: bytes; times: nanoseconds since the epoch; timeouts: seconds.
    """

    node_id: InodeNo
    mode: int
    links: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    entry_timeout: float
    attr_timeout: float


def of_file(file: File) -> Attr:
    """Of a file; what is not known exactly is not for the kernel to keep."""
    options = file.volume.options
    draft, known, entry = file.draft, file.stat, file.entry
    if draft is not None:
        mtime_ns = draft.modified * 10**9
        # While nothing is changed the storage's time of change still holds.
        ctime_ns = mtime_ns if draft.changed or known is None else known.changed_ns
    elif known is not None:
        mtime_ns, ctime_ns = known.metadata.modified * 10**9, known.changed_ns
    else:
        mtime_ns = ctime_ns = (entry.changed_ns if entry else None) or 0
    exact = draft is not None or known is not None
    timeout = options.attr_timeout
    return Attr(
        file.node_id, stat.S_IFREG | options.file_mode, 1, file.size, options.uid, options.gid,
        mtime_ns, ctime_ns, timeout, timeout if exact else 0.0,
    )  # fmt: skip


def of_directory(node: DirectoryNode, options: VolumeOptions, mtime_ns: int, subdirectories: int) -> Attr:
    """Of the root or of a storage's directory."""
    return Attr(
        node.node_id, stat.S_IFDIR | options.dir_mode, 2 + subdirectories, 4096, options.uid, options.gid,
        mtime_ns, mtime_ns, options.attr_timeout, options.attr_timeout,
    )  # fmt: skip
