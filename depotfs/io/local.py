"""The storage that keeps files in a local directory, in filedepot's layout (`depotfs.io.localformat`)."""

from __future__ import annotations

import dataclasses
import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from depotfs import disk
from depotfs.errors import AlreadyStored, DepotError, FileNotStored, InvalidMetadata, VersionChanged
from depotfs.io.content import Content, FileContent
from depotfs.io.ids import canonical, is_canonical
from depotfs.io.interfaces import PAGE
from depotfs.io.localcontent import LocalReader, SourceWatch, stamp, write_all
from depotfs.io.localerrors import LocalErrors
from depotfs.io.localformat import (
    CONTENT,
    METADATA,
    decode_metadata,
    encode_metadata,
    file_stat,
    is_content,
    version_of,
)
from depotfs.io.moves import move_by_copy
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.io.staging import NAME as STAGING
from depotfs.io.staging import Staging, discard
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileEntry, FileId, FileMetadata, FileStat

T = TypeVar("T")

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # so that opening a FIFO does not wait for its writer
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_NEW: Final = (ANY, ABSENT)
"""Expectations under which a file may be made where there is none."""


class LocalFileStorage(NativeStorage):
    """Files in `<storage_path>/<id>/`, each whole at any moment, for readers and after a crash of the process.

    A file is built in `<storage_path>/.depotfs/` and gets its place by one rename. A replace flushes the new
    content to the disk before it gives up the old one; what else power loss may undo is the file system's matter.

    Args:
        storage_path: made when the first file is stored.
        durable: every call that changes something returns only when that is on the disk.
    """

    inline = True

    def __init__(self, storage_path: Any, durable: bool = False) -> None:
        self.storage_path = storage_path
        self.durable = durable
        self._root = os.fsdecode(storage_path)
        self._staging = Staging(self._root)

    def identity(self) -> str:
        return f"local:{os.path.realpath(self._root)}"

    def staging_directory(self) -> str | None:
        """`<storage_path>/.depotfs`, kept until `leave_staging` or `close`; None where it cannot be made.

        `put` takes the file of a movable `FileContent` out of `<this>/spool-<anything>/file`, with its directory.
        """
        try:
            return self._staging.hold()
        except OSError:
            return None

    def leave_staging(self) -> None:
        self._staging.release()

    def close(self) -> None:
        self._staging.release()

    # --- reading ---------------------------------------------------------------------------------------------

    def stat(self, file_id: FileId) -> FileStat:
        stat, fd = self._open(file_id)
        os.close(fd)
        return stat

    def exists(self, file_or_id: Any) -> bool:
        return self._version(canonical(file_or_id)) is not None

    def list(self) -> list[str]:
        return [file_id for file_id in self._ids() if self._is_stored(file_id)]

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        """As promised by `FileStorage`, with exact stats; a file with unreadable metadata has none."""
        ids = sorted(self._ids())
        for start in range(bisect_right(ids, after), len(ids), PAGE):
            yield [entry for file_id in ids[start : start + PAGE] if (entry := self._entry(file_id))]

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        stat, fd = self._open(file if isinstance(file, str) else file.file_id)
        if isinstance(file, FileStat) and file.version != stat.version:
            os.close(fd)
            raise VersionChanged(f"File {file.file_id} was replaced in {self._root}")
        return LocalReader(fd, stat)

    def _place(self, file_id: FileId) -> str:
        return f"{self._root}/{file_id}"

    def _ids(self) -> Sequence[FileId]:
        with LocalErrors(self._root):
            try:
                names = os.listdir(self._root)
                if STAGING in names and self._staging.restore_all():
                    names = os.listdir(self._root)
            except FileNotFoundError:
                return []  # nothing was stored yet
            return [FileId(name) for name in names if is_canonical(name)]

    def _is_stored(self, file_id: FileId) -> bool:
        try:
            return self._version(file_id) is not None
        except DepotError:
            return True  # it is there, but may not be looked at

    def _entry(self, file_id: FileId) -> FileEntry | None:
        try:
            stat = self.stat(file_id)
        except FileNotStored:
            return None
        except DepotError:
            return FileEntry(file_id)
        return FileEntry(file_id, stat.size, stat.revision, stat.changed_ns, stat)

    def _version(self, file_id: FileId, *, inside: bool = False) -> str | None:
        """The content's version, None if nothing is stored; whatever stands in the metadata."""
        place = self._place(file_id)
        with LocalErrors(place):
            while True:
                try:
                    os.stat(f"{place}/{METADATA}")
                    content = os.stat(f"{place}/{CONTENT}")
                except (FileNotFoundError, NotADirectoryError):
                    if not self._staging.restore(place, inside=inside):
                        return None
                else:
                    return version_of(content) if is_content(content) else None

    def _open(self, file_id: FileId) -> tuple[FileStat, int]:
        """Stat and open content of one and the same life of the file."""
        place = self._place(file_id)
        with LocalErrors(place):
            while True:
                try:
                    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except (FileNotFoundError, NotADirectoryError):
                    if self._staging.restore(place):
                        continue
                    raise self._not_stored(file_id) from None
                try:
                    return self._open_in(directory, file_id)
                except FileNotFoundError:
                    # It never was complete, or it was replaced or deleted just now: then another one is there.
                    if _is_at(place, directory):
                        raise self._not_stored(file_id) from None
                finally:
                    os.close(directory)

    def _open_in(self, directory: int, file_id: FileId) -> tuple[FileStat, int]:
        described = os.open(METADATA, _READ, dir_fd=directory)
        try:
            about = os.fstat(described)
            raw = os.read(described, about.st_size)
        finally:
            os.close(described)
        fd = os.open(CONTENT, _READ, dir_fd=directory)
        try:
            content = os.fstat(fd)
            if not is_content(content):
                raise self._not_stored(file_id)
            return file_stat(file_id, content, about, decode_metadata(raw, content.st_mtime_ns)), fd
        except InvalidMetadata as error:
            os.close(fd)
            raise InvalidMetadata(f"Invalid file metadata of {file_id} in {self._root}: {error}") from None
        except BaseException:
            os.close(fd)
            raise

    def _not_stored(self, file_id: FileId) -> FileNotStored:
        return FileNotStored(f"File {file_id} not existing in {self._root}")

    # --- writing ---------------------------------------------------------------------------------------------

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As promised by `FileStorage`. A commit id is not kept: here the bytes themselves can be compared.

        A movable `FileContent` out of the staging directory is taken with the directory that it is in, and `moved`.
        """
        source = SourceWatch(content)
        with LocalErrors(self._place(file_id), source):
            movable = content if isinstance(content, FileContent) and self._is_staged(content) else None
            if movable is not None and expect in _NEW and (stat := self._take(movable, metadata, file_id)):
                return stat
            if expect is not ANY:
                self._check(file_id, expect)  # early, to spare the work; what counts is the check at the end
            with self._staging.building() as built:
                return self._build(built, source, movable, metadata, file_id, expect)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        stat, fd = self._open(source.file_id)
        try:
            if stat.version != source.version:
                raise VersionChanged(f"File {source.file_id} was replaced in {self._root}")
            content = FileContent(self._place(source.file_id), fd, stat.size)
            return self.put(content, metadata, file_id=target, expect=expect)
        finally:
            os.close(fd)

    def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As promised by `FileStorage`; the content's file itself gets the new place, whatever its size."""
        stat, fd = self._open(source.file_id)
        try:
            if stat.version != source.version:
                raise VersionChanged(f"File {source.file_id} was replaced in {self._root}")
            moved = move_by_copy(self, self._link, source, target, metadata, expect, commit)
            if moved.version != source.version:
                return moved
            changed_ns = max(moved.changed_ns, os.fstat(fd).st_ctime_ns)  # that of the removal of the other name
            return dataclasses.replace(moved, changed_ns=changed_ns)
        finally:
            os.close(fd)

    def _link(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected, commit: str
    ) -> FileStat:
        """As `copy`; but both have the very same content, where the file system can do that."""
        self._check(target, expect)  # early, for a link leaves its trace in the source's time of change
        with LocalErrors(self._place(target)), self._staging.building() as built:
            path = f"{built}/{CONTENT}"
            if not _link(f"{self._place(source.file_id)}/{CONTENT}", path):
                return self.copy(source, target, metadata, expect=expect)
            content = os.stat(path)
            if version_of(content) != source.version:
                raise VersionChanged(f"File {source.file_id} was replaced in {self._root}")
            described = _describe(built, metadata, content.st_size)
            try:
                disk.sync_file(described)  # the source's goes next
                self._give_place(built, target, expect)
                return file_stat(target, content, os.fstat(described), metadata)
            finally:
                os.close(described)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        metadata = file.metadata.changed(filename, content_type, modified)
        place = self._place(file.file_id)
        with LocalErrors(place), self._staging.building() as built:
            fd = _describe(built, metadata, file.size)
            try:
                stamp(fd)
                disk.sync_file(fd)  # before it takes the place of the old
                with disk.exclusive(self._root):
                    self._check(file.file_id, file.version, inside=True)
                    content = os.stat(f"{place}/{CONTENT}")
                    os.rename(f"{built}/{METADATA}", f"{place}/{METADATA}")
                if self.durable:
                    disk.sync_directory(place)
                return file_stat(file.file_id, content, os.fstat(fd), metadata)
            finally:
                os.close(fd)

    def sync(self, file_id: FileId) -> None:
        place = self._place(file_id)
        with LocalErrors(place):
            try:
                _sync_files(place)
            except FileNotFoundError:
                raise self._not_stored(file_id) from None
            disk.sync_directory(self._root)

    def disk_path(self) -> str | None:
        return self._root if os.path.isdir(self._root) else None

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        place = self._place(file_id)
        with LocalErrors(place):
            if not self._is_anything_at(place):
                return
            try:
                gone = self._take_out(file_id, expect, self._staging.take_out)
                if gone is not None:
                    self._staging.clear_away(gone)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # No room for a directory to delete it from: then in its place. Without metadata it is no file any more.
                self._take_out(file_id, expect, lambda place: os.unlink(f"{place}/{METADATA}"))
                discard(place)
            if self.durable:
                disk.sync_directory(self._root)

    def _is_anything_at(self, place: str) -> bool:
        while True:
            try:
                os.lstat(place)
            except FileNotFoundError:
                if not self._staging.restore(place):
                    return False
            else:
                return True

    def _take_out(self, file_id: FileId, expect: Expected, away: Callable[[str], T]) -> T | None:
        """What `away` gave for the file's place; None: there is nothing any more."""
        with disk.exclusive(self._root):
            # Nothing may be left that would be restored into the empty place.
            place = self._place(file_id)
            self._staging.restore(place, inside=True)
            if expect is not ANY:
                if self._version(file_id, inside=True) is None:
                    return None
                self._check(file_id, expect, inside=True)
            try:
                return away(place)
            except FileNotFoundError:
                return None  # somebody was faster

    def _is_staged(self, content: FileContent) -> bool:
        if not content.movable:
            return False
        around, staging = os.path.dirname(os.path.dirname(content.path)), self._staging.path
        return os.path.basename(content.path) == CONTENT and (
            around == staging or os.path.abspath(around) == os.path.abspath(staging)
        )

    def _take(self, content: FileContent, metadata: FileMetadata, file_id: FileId) -> FileStat | None:
        """A new file, made of the directory that the content is in. None (and nothing done): the id is taken."""
        own = os.path.dirname(content.path)
        described = _describe(own, metadata, content.size or 0)
        try:
            stamp(content.fd)
            if self.durable:
                _sync_files(own)
            disk.rename_new(own, self._place(file_id))
            # A crash from here on leaves the file stored, and the caller's directory gone.
            content.moved = True
            self._sync_root()
            return file_stat(file_id, os.fstat(content.fd), os.fstat(described), metadata)
        except FileExistsError:
            return None
        finally:
            os.close(described)
            if not content.moved:
                os.unlink(f"{own}/{METADATA}")

    def _build(
        self,
        built: str,
        source: SourceWatch,
        movable: FileContent | None,
        metadata: FileMetadata,
        file_id: FileId,
        expect: Expected,
    ) -> FileStat:
        path = f"{built}/{CONTENT}"
        # A link, so that the caller's file has the new bytes until they have their place, whenever we crash.
        linked = movable is not None and _link(movable.path, path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if linked else os.O_CREAT | os.O_EXCL), 0o666)
        try:
            if not linked:
                source.write_to(fd)
            stamp(fd)
            described = _describe(built, metadata, os.fstat(fd).st_size)
            try:
                self._give_place(built, file_id, expect)
                if linked and movable is not None:
                    movable.moved = True
                    discard(os.path.dirname(movable.path))
                return file_stat(file_id, os.fstat(fd), os.fstat(described), metadata)
            finally:
                os.close(described)
        finally:
            os.close(fd)

    def _give_place(self, built: str, file_id: FileId, expect: Expected) -> None:
        """`built` is the file `file_id` now, or names what was that before."""
        place = self._place(file_id)
        if expect in _NEW and not os.path.lexists(place):
            if self.durable:
                _sync_files(built)
            try:
                disk.rename_new(built, place)
                self._sync_root()
                return
            except FileExistsError:
                pass
        _sync_files(built)
        with disk.exclusive(self._root):
            self._swap_in(built, place, file_id, expect)
        self._sync_root()

    def _swap_in(self, built: str, place: str, file_id: FileId, expect: Expected) -> None:
        while True:
            self._check(file_id, expect, inside=True)
            try:
                return self._staging.swap(built, place)
            except FileNotFoundError:
                if not os.path.lexists(built):
                    raise  # else it is the place that was empty, whatever is there now
            except FileExistsError:
                continue
            if expect in _NEW:
                try:
                    return disk.rename_new(built, place)
                except FileExistsError:
                    continue

    def _check(self, file_id: FileId, expect: Expected, *, inside: bool = False) -> None:
        if expect is ANY:
            return
        found = self._version(file_id, inside=inside)
        if expect == ABSENT:
            if found is not None:
                raise AlreadyStored(f"File {file_id} is there already in {self._root}")
        elif expect == PRESENT:
            if found is None:
                raise self._not_stored(file_id)
        elif found != expect:
            raise VersionChanged(f"File {file_id} was replaced or deleted in {self._root}")

    def _sync_root(self) -> None:
        if self.durable:
            disk.sync_directory(self._root)


def _is_at(place: str, directory: int) -> bool:
    try:
        return os.path.samestat(os.stat(place), os.fstat(directory))
    except OSError:
        return False


def _describe(directory: str, metadata: FileMetadata, size: int) -> int:
    """Writes `metadata.json` into the directory; a descriptor of it, the caller's to close."""
    fd = os.open(f"{directory}/{METADATA}", _WRITE, 0o666)
    try:
        write_all(fd, encode_metadata(metadata, size))
    except BaseException:
        os.close(fd)
        with suppress(OSError):  # the directory is as it was: it may be one that is tried again
            os.unlink(f"{directory}/{METADATA}")
        raise
    return fd


def _link(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False  # a file system without links, or across two: the bytes are copied instead
    return True


def _sync_files(directory: str) -> None:
    """The directory with content and metadata is on the disk, whatever its name."""
    for name in (CONTENT, METADATA):
        fd = os.open(f"{directory}/{name}", _READ)
        try:
            disk.sync_file(fd)
        finally:
            os.close(fd)
    disk.sync_directory(directory)
