"""The storage that keeps files in a local directory, in filedepot's layout (`depotfs.io.localformat`)."""

from __future__ import annotations

import dataclasses
import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

from depotfs import disk
from depotfs.errors import AlreadyStored, DepotError, FileNotStored, InvalidMetadata, VersionChanged
from depotfs.io.content import Content, FileContent
from depotfs.io.ids import canonical, is_canonical
from depotfs.io.interfaces import PAGE
from depotfs.io.localcontent import LocalReader, SourceWatch, stamp
from depotfs.io.localerrors import LocalErrors
from depotfs.io.localformat import CONTENT, METADATA, file_stat, version_of
from depotfs.io.localplace import (
    describe,
    discard,
    is_at,
    link_content,
    look,
    new_content,
    sync_whole,
    version_in,
)
from depotfs.io.moves import move_by_copy, move_onto_itself
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.io.staging import Entry, Staging
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileEntry, FileId, FileMetadata, FileStat

T = TypeVar("T")

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NEW: Final = (ANY, ABSENT)
"""Expectations under which a file may be made where there is none."""
_DAMAGED: Final = "damaged"
"""In the place of the version of a file that is there, but whole no more. Never the version of anything."""


class LocalFileStorage(NativeStorage):
    """Files in `<storage_path>/<id>/`, each whole at any moment, for readers and after a crash of the process.

    A file is built in a staging directory, beside `storage_path` where that can be, and gets its place by one rename.
    A replace flushes the new content to the disk before it gives up the old one; what else power loss may undo is the
    file system's matter.

    What is damaged under an id (content lost, metadata unreadable, a symbolic link, a FIFO) is listed, raises
    InvalidMetadata when it is looked at, and can be removed and replaced. A directory without `metadata.json` never
    was a whole file, and is none.

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
        """Kept until `leave_staging` or `close`; None where it cannot be made.

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
        """As promised by `FileStorage`, with exact stats; a file that is damaged has none."""
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
                if self._staging.restore_all():
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
        try:
            return self._looked(file_id, version_in, inside=inside)
        except InvalidMetadata:
            return _DAMAGED

    def _open(self, file_id: FileId) -> tuple[FileStat, int]:
        """Stat and open content of one and the same life of the file."""
        found = self._looked(file_id, lambda directory: look(directory, file_id))
        if found is None:
            raise self._not_stored(file_id)
        return found

    def _looked(self, file_id: FileId, act: Callable[[int], T], *, inside: bool = False) -> T | None:
        """What `act` tells of the file's directory, in one life of the file; None: nothing is stored.

        Args:
            inside: the caller is alone in `disk.exclusive(root)` already.
        Raises:
            InvalidMetadata: it is damaged.
        """
        place = self._place(file_id)
        with LocalErrors(place):
            while (directory := self._open_place(file_id, inside=inside)) is not None:
                try:
                    return act(directory)
                except (FileNotFoundError, InvalidMetadata) as error:
                    # It never was complete, or it was replaced or deleted just now: then another one is there.
                    if is_at(place, directory):
                        if isinstance(error, InvalidMetadata):
                            raise self._damaged(file_id, error) from None
                        return None
                finally:
                    os.close(directory)
            return None

    def _open_place(self, file_id: FileId, *, inside: bool) -> int | None:
        place = self._place(file_id)
        while True:
            try:
                return disk.open_directory(place)
            except NotADirectoryError:
                if os.path.islink(place):
                    raise self._damaged(file_id, "a symbolic link is in its place") from None
                return None
            except FileNotFoundError:
                if not self._staging.restore(place, inside=inside):
                    return None

    def _damaged(self, file_id: FileId, how: object) -> InvalidMetadata:
        return InvalidMetadata(f"File {file_id} in {self._root} is damaged: {how}")

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
            if isinstance(content, FileContent) and content.movable and os.path.basename(content.path) == CONTENT:
                with self._staging.staged(os.path.dirname(content.path)) as staged:
                    if staged is not None and _holds(staged, content):
                        return self._put_staged(content, staged, metadata, file_id, expect)
            if expect is not ANY:
                self._check(file_id, expect)  # early, to spare the work; what counts is the check at the end
            with self._staging.building() as built:
                fd = new_content(built.directory)
                try:
                    source.write_to(fd)
                    return self._finish(built, fd, metadata, file_id, expect)
                finally:
                    os.close(fd)

    def _put_staged(
        self, content: FileContent, staged: Entry, metadata: FileMetadata, file_id: FileId, expect: Expected
    ) -> FileStat:
        if expect in _NEW and (stat := self._take(content, staged, metadata, file_id)):
            return stat
        if expect is not ANY:
            self._check(file_id, expect)
        with self._staging.building() as built:
            # A link, so that the caller's file has the new bytes until they have their place, whenever we crash.
            linked = link_content(staged.directory, built.directory)
            fd = content.fd if linked else new_content(built.directory)
            try:
                if not linked:
                    SourceWatch(content).write_to(fd)
                stat = self._finish(built, fd, metadata, file_id, expect)
            finally:
                if not linked:
                    os.close(fd)
            if not linked:
                return stat
            content.moved = True
            staged.discard()
            return _unlinked(stat, content.fd)

    def _take(self, content: FileContent, staged: Entry, metadata: FileMetadata, file_id: FileId) -> FileStat | None:
        """A new file, made of the directory that the content is in. None (and nothing done): that cannot be."""
        described = describe(staged.directory, metadata, content.size)
        try:
            stamp(content.fd)
            if self.durable:
                sync_whole(staged.directory)
            self._staging.place_new(staged, self._place(file_id))
            # A crash from here on leaves the file stored, and the caller's directory gone.
            content.moved = True
            self._sync_root()
            return file_stat(file_id, os.fstat(content.fd), os.fstat(described), metadata)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EXDEV):
                raise
            return None
        finally:
            os.close(described)
            if not content.moved:
                os.unlink(METADATA, dir_fd=staged.directory)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        with closing(self._reader(source)) as reader:
            content = FileContent(f"{self._place(source.file_id)}/{CONTENT}", reader.fd, source.size)
            return self.put(content, metadata, file_id=target, expect=expect)

    def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As promised by `FileStorage`; the content's file itself gets the new place, whatever its size."""
        if target == source.file_id:
            return move_onto_itself(self, source, metadata, expect)
        with closing(self._reader(source)) as reader:
            moved = move_by_copy(self, self._link, source, target, metadata, expect, commit)
            return _unlinked(moved, reader.fd) if moved.version == source.version else moved

    def _link(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected, commit: str
    ) -> FileStat:
        """As `copy`; but both have the very same content, where the file system can do that."""
        self._check(target, expect)  # early, for a link leaves its trace in the source's time of change
        with LocalErrors(self._place(target)), self._staging.building() as built:
            content = self._looked(source.file_id, lambda directory: link_content(directory, built.directory))
            if content is None:
                return self.copy(source, target, metadata, expect=expect)
            if version_of(content) != source.version:
                raise self._replaced(source.file_id)
            described = describe(built.directory, metadata, content.st_size)
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
        """As promised by `FileStorage`: what others changed since and is not given here stays theirs."""
        place = self._place(file.file_id)
        while True:
            with LocalErrors(place), closing(self._reader(file)) as reader, self._staging.building() as built:
                metadata = reader.stat.metadata.changed(filename, content_type, modified)
                described = describe(built.directory, metadata, file.size)
                try:
                    stamp(described)
                    disk.sync_file(described)  # before it takes the place of the old
                    if self._exchange_metadata(built, reader.stat):
                        return file_stat(file.file_id, os.fstat(reader.fd), os.fstat(described), metadata)
                finally:
                    os.close(described)

    def _exchange_metadata(self, built: Entry, base: FileStat) -> bool:
        """The file has the metadata out of `built`. False (and nothing done): it is not as in `base` any more."""

        def rename(directory: int) -> bool:
            stat, fd = look(directory, base.file_id)
            os.close(fd)
            if stat.revision != base.revision:
                return False
            os.rename(METADATA, METADATA, src_dir_fd=built.directory, dst_dir_fd=directory)
            if self.durable:
                disk.sync_file(directory)
            return True

        with disk.exclusive(self._root):
            return bool(self._looked(base.file_id, rename, inside=True))

    def _reader(self, file: FileStat) -> LocalReader:
        """A reader of that very version."""
        stat, fd = self._open(file.file_id)
        if stat.version == file.version:
            return LocalReader(fd, stat)
        os.close(fd)
        raise self._replaced(file.file_id)

    def _replaced(self, file_id: FileId) -> VersionChanged:
        return VersionChanged(f"File {file_id} was replaced in {self._root}")

    def sync(self, file_id: FileId) -> None:
        def sync(directory: int) -> bool:
            sync_whole(directory)
            return True

        if self._looked(file_id, sync) is None:
            raise self._not_stored(file_id)
        with LocalErrors(self._root):
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
                self._take_out(file_id, expect, discard)
            self._sync_root()

    def _is_anything_at(self, place: str) -> bool:
        return os.path.lexists(place) or self._staging.restore(place)

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

    # --- giving a file its place -------------------------------------------------------------------------------

    def _finish(self, built: Entry, fd: int, metadata: FileMetadata, file_id: FileId, expect: Expected) -> FileStat:
        """The content `fd`, complete in `built`, is the file's, with this metadata."""
        stamp(fd)
        described = describe(built.directory, metadata, os.fstat(fd).st_size)
        try:
            self._give_place(built, file_id, expect)
            return file_stat(file_id, os.fstat(fd), os.fstat(described), metadata)
        finally:
            os.close(described)

    def _give_place(self, built: Entry, file_id: FileId, expect: Expected) -> None:
        """`built` is the file `file_id` now, or names what was that before."""
        place = self._place(file_id)
        if expect in _NEW and not os.path.lexists(place):
            if self.durable:
                sync_whole(built.directory)
            try:
                self._staging.place_new(built, place)
                self._sync_root()
                return
            except FileExistsError:
                pass
        sync_whole(built.directory)
        with disk.exclusive(self._root):
            self._swap_in(built, place, file_id, expect)
        self._sync_root()

    def _swap_in(self, built: Entry, place: str, file_id: FileId, expect: Expected) -> None:
        while True:
            self._check(file_id, expect, inside=True)
            try:
                return self._staging.swap(built, place)
            except FileNotFoundError:
                if not built.is_there():
                    raise  # else it is the place that was empty, whatever is there now
            except FileExistsError:
                continue
            if expect in _NEW:
                try:
                    return self._staging.place_new(built, place)
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


def _unlinked(stat: FileStat, fd: int) -> FileStat:
    """The stat after another name of its content went, which the file system takes for a change."""
    return dataclasses.replace(stat, changed_ns=max(stat.changed_ns, os.fstat(fd).st_ctime_ns))


def _holds(staged: Entry, content: FileContent) -> bool:
    """Whether the content is the file in that directory."""
    try:
        found = os.stat(CONTENT, dir_fd=staged.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(content.fd))
