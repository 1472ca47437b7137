"""The bytes of a locally stored file: how they get into a file of the storage, and how they are read."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import Final

from depotfs.errors import DepotError, VersionChanged
from depotfs.io.content import CHUNK, Content, FileContent
from depotfs.io.reader import ContentReader
from depotfs.types import FileStat

_FICLONE: Final = 0x40049409  # <linux/fs.h>
_NO_KERNEL_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
"""How copy_file_range(2) says that it cannot for these two files."""


class SourceWatch:
    """A `Content` that remembers which error came from itself rather than from where it is written to."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.failure: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._content.read(size)
        except OSError as error:
            self.failure = error
            raise

    def write_to(self, fd: int) -> None:
        """All bytes of the content are in the empty file `fd`: shared, copied by the kernel, or written."""
        if isinstance(self._content, FileContent):
            _copy_file(self._content, fd)
            return
        while piece := self.read(CHUNK):
            write_all(fd, piece)


def _copy_file(content: FileContent, fd: int) -> None:
    size = content.size or 0
    if os.fstat(content.fd).st_size == size and _clone(content.fd, fd):
        return
    position = 0
    while position < size:
        copied = _copy_range(content, position, size - position, fd)
        if not copied:
            raise DepotError(f"{content.path} became shorter while it was being stored")
        position += copied


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_range(content: FileContent, offset: int, size: int, fd: int) -> int:
    try:
        return os.copy_file_range(content.fd, fd, size, offset_src=offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    piece = content.pread(offset, min(size, CHUNK))
    write_all(fd, piece)
    return len(piece)


def write_all(fd: int, data: bytes) -> None:
    """All of `data` is in the file, at its position. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def stamp(fd: int) -> None:
    """The file's mtime is now, to the nanosecond.

    The kernel's own stamp has the resolution of its tick: a file that gets the inode of one just deleted could get
    its time too, and so its version.
    """
    now = time.time_ns()
    os.utime(fd, ns=(now, now))


class LocalReader(ContentReader):
    """A reader of one content file, which stays readable when it is replaced or deleted."""

    def __init__(self, fd: int, stat: FileStat) -> None:
        self.stat = stat
        self.fd = fd

    def pread(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self.stat.size - offset))
        data = os.pread(self.fd, wanted, offset)
        while len(data) < wanted:  # one read(2) gives at most 2 GiB
            more = os.pread(self.fd, wanted - len(data), offset + len(data))
            if not more:
                raise VersionChanged(f"File {self.stat.file_id} was cut short in its place")
            data += more
        return data

    def fileno(self) -> int | None:
        return self.fd

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
