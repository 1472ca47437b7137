"""Durable steps on a local file system: flush a file or directory to the disk, swap two names, lock, free space.

The only module that calls `os.fsync`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

HERE: Final = -100  # AT_FDCWD of <fcntl.h>
"""In the place of a directory's descriptor: names are relative to the working directory."""
_RENAME_NOREPLACE: Final = 1  # <linux/fs.h>
_RENAME_EXCHANGE: Final = 2  # <linux/fs.h>
_libc = ctypes.CDLL(None, use_errno=True)


def sync_file(fd: int) -> None:
    """The file's bytes and size are on the disk when this returns. Raises OSError."""
    os.fsync(fd)


def sync_directory(path: str) -> None:
    """The directory's entries are on the disk when this returns. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """All that was written to the file system of `path` is on its way to the disk, or there (syncfs(2)).

    A flush of each file is quick then; only that one tells of errors.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _libc.syncfs(fd)
    finally:
        os.close(fd)


def make_directory(path: str, mode: int = 0o777) -> None:
    """The directory is there, with all those above it, after a loss of power too. Raises OSError."""
    above = os.path.dirname(path)
    if not os.path.isdir(path):
        if not os.path.isdir(above):
            make_directory(above, mode)
        with suppress(FileExistsError):
            os.mkdir(path, mode)
    with suppress(PermissionError):  # one that may be passed, but not read, cannot be flushed
        sync_directory(above)


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """Where there is data in the first `size` bytes: offsets and ends. Raises OSError."""
    ranges: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            offset = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, offset, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind the offset
                break
            raise
        if offset < size:
            ranges.append((offset, min(size, end)))
    return ranges


def open_directory(path: str, *, within: int = HERE) -> int:
    """A descriptor of that very directory. NotADirectoryError for anything else, a symbolic link to one included.

    Args:
        within: descriptor of the directory that a relative path begins in.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)


def _renameat2(source: str, target: str, flags: int, source_in: int, target_in: int) -> None:
    if _libc.renameat2(source_in, os.fsencode(source), target_in, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source, None, target)


def exchange(one: str, other: str, *, one_in: int = HERE, other_in: int = HERE) -> None:
    """Both names exist before and after, each with what the other had; atomic (renameat2(2)).

    Args:
        one_in, other_in: descriptors of the directories that relative names are in.
    Raises:
        OSError: EINVAL or ENOSYS where the file system cannot; ENOENT if a name is missing.
    """
    _renameat2(one, other, _RENAME_EXCHANGE, one_in, other_in)


def rename_new(source: str, target: str, *, source_in: int = HERE, target_in: int = HERE) -> None:
    """`source` is now `target`, which did not exist; atomic. Raises FileExistsError if it did."""
    try:
        _renameat2(source, target, _RENAME_NOREPLACE, source_in, target_in)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system without the flag: rename(2) itself refuses a directory that is not empty.
        try:
            os.rename(source, target, src_dir_fd=source_in, dst_dir_fd=target_in)
        except OSError as inner:
            if inner.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
            raise


def free_space(path: str) -> int:
    """Bytes that an unprivileged writer may still use on the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def limit_free(found: os.statvfs_result, room: int) -> os.statvfs_result:
    """The same file system with no more free than that many bytes."""
    blocks = room // found.f_frsize
    bsize, frsize, size, free, available, *files = found
    return os.statvfs_result((bsize, frsize, size, min(free, blocks), min(available, blocks), *files))


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """While inside, no other process or thread is inside for the same existing directory or file.

    Uses flock(2) on a descriptor of its own; a file system without locks is not an error, it then
    excludes nobody.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF):
                raise
        yield
    finally:
        os.close(fd)
