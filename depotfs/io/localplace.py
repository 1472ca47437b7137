"""The directory of a locally stored file, by its descriptor: what is in it is read, written and deleted there.

No symbolic link is followed and nothing but regular files is opened: whoever can write to a storage must not reach
what only its reader may see or change. Errors are plain OSErrors where nothing else is said.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from typing import Final

from depotfs import disk
from depotfs.errors import InvalidMetadata
from depotfs.io.localcontent import write_all
from depotfs.io.localformat import (
    CONTENT,
    METADATA,
    decode_metadata,
    encode_metadata,
    file_stat,
    is_content,
    version_of,
)
from depotfs.types import FileId, FileMetadata, FileStat

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO must not wait for its writer
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FILE: Final = (errno.ELOOP, errno.ENXIO)
"""How open(2) says that a name is a symbolic link, or a socket."""
_LARGEST_METADATA: Final = 1 << 20
"""Bytes; a filename has some hundred."""


def is_at(path: str, directory: int) -> bool:
    """Whether that directory is the one at the path."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(directory))
    except OSError:
        return False


# --- reading ---------------------------------------------------------------------------------------------------


def look(directory: int, file_id: FileId) -> tuple[FileStat, int]:
    """Stat and open content of the file in the directory.

    Raises:
        FileNotFoundError: it has no metadata, so it never was a whole file.
        InvalidMetadata: it is damaged; the text says how.
    """
    described = _open_file(directory, METADATA)
    try:
        about = os.fstat(described)
        raw = _read_metadata(described, about.st_size)
    finally:
        os.close(described)
    fd = _open_content(directory)
    try:
        content = os.fstat(fd)
        return file_stat(file_id, content, about, decode_metadata(raw, content.st_mtime_ns)), fd
    except BaseException:
        os.close(fd)
        raise


def version_in(directory: int) -> str:
    """The version of the content in the directory, whatever stands in the metadata. Raises as `look`."""
    os.stat(METADATA, dir_fd=directory, follow_symlinks=False)
    try:
        content = os.stat(CONTENT, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise _lost() from None
    if not is_content(content):
        raise _odd(CONTENT)
    return version_of(content)


def _open_content(directory: int) -> int:
    try:
        return _open_file(directory, CONTENT)
    except FileNotFoundError:
        raise _lost() from None


def _open_file(directory: int, name: str) -> int:
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _odd(name) from None
        raise
    if is_content(os.fstat(fd)):
        return fd
    os.close(fd)
    raise _odd(name)


def _read_metadata(fd: int, size: int) -> bytes:
    if size > _LARGEST_METADATA:
        raise InvalidMetadata(f"Invalid file metadata, of {size} bytes")
    return os.read(fd, size)


def _lost() -> InvalidMetadata:
    return InvalidMetadata(f"its content is lost, there is no {CONTENT!r} in its directory")


def _odd(name: str) -> InvalidMetadata:
    return InvalidMetadata(f"its {name!r} is no regular file")


# --- writing ---------------------------------------------------------------------------------------------------


def new_content(directory: int) -> int:
    """A descriptor of the new, empty content file, for reading and writing."""
    return os.open(CONTENT, _NEW, 0o666, dir_fd=directory)


def link_content(source: int, target: int) -> os.stat_result | None:
    """Both directories have the very same content file; None: the file system cannot do that, or not across these."""
    try:
        os.link(CONTENT, CONTENT, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError:
        return None
    return os.stat(CONTENT, dir_fd=target, follow_symlinks=False)


def describe(directory: int, metadata: FileMetadata, size: int) -> int:
    """Writes a new `metadata.json` into the directory; a descriptor of it, the caller's to close.

    Raises:
        InvalidMetadata: it would be larger than what is read again.
    """
    encoded = encode_metadata(metadata, size)
    if len(encoded) > _LARGEST_METADATA:
        raise InvalidMetadata(f"The filename and content type are too long to be stored: {len(encoded)} bytes")
    with suppress(FileNotFoundError):
        os.unlink(METADATA, dir_fd=directory)
    fd = os.open(METADATA, _NEW, 0o666, dir_fd=directory)
    try:
        write_all(fd, encoded)
    except BaseException:
        os.close(fd)
        with suppress(OSError):  # the directory is as it was: it may be one that is tried again
            os.unlink(METADATA, dir_fd=directory)
        raise
    return fd


def sync_whole(directory: int) -> None:
    """The directory with content and metadata is on the disk, whatever its name."""
    for name in (CONTENT, METADATA):
        fd = _open_file(directory, name)
        try:
            disk.sync_file(fd)
        finally:
            os.close(fd)
    disk.sync_file(directory)


def discard(name: str, *, within: int = disk.HERE) -> None:
    """Neither the directory nor what is in it exists any more, as far as that can be done; never raises OSError."""
    try:
        _remove_file(name, within)
    except NotADirectoryError:
        with suppress(OSError):
            os.unlink(name, dir_fd=within)
    except OSError:
        shutil.rmtree(name, ignore_errors=True, dir_fd=within)


def _remove_file(name: str, within: int) -> None:
    try:
        directory = disk.open_directory(name, within=within)
    except FileNotFoundError:
        return  # it got its place
    try:
        for inner in (METADATA, CONTENT):
            with suppress(FileNotFoundError):
                os.unlink(inner, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=within)
