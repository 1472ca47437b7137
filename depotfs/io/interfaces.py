"""The contract of a storage: what `FileStorage` and `StoredFile` owe their callers (readers: `depotfs.io.reader`).

The six methods `get`, `create`, `replace`, `delete`, `exists` and `list` are filedepot's. A class that has only
these works everywhere; the further methods are then made of the six, slower and with the weaker promises that
their docstrings name. Backends of ours fulfil the strong ones (`depotfs.io.native`).

All methods block and may be called from several threads at once. Errors are those of `depotfs.errors`, with
what failed, on which file, and why.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, ClassVar

from depotfs.errors import (
    AlreadyStored,
    ContentDamaged,
    DepotError,
    FileNotStored,
    InvalidFileId,
    InvalidMetadata,
    Unsupported,
    VersionChanged,
)
from depotfs.io.checksums import WholeCheck
from depotfs.io.content import CHUNK, Content, StreamContent
from depotfs.io.ids import IdForm, is_canonical
from depotfs.io.moves import move_by_copy
from depotfs.io.reader import ContentReader, ReaderStream, follow, read_exactly
from depotfs.io.times import from_datetime, to_datetime
from depotfs.types import (
    ABSENT,
    ANY,
    OCTET_STREAM,
    PRESENT,
    UNNAMED,
    Expected,
    FileEntry,
    FileId,
    FileMetadata,
    FileStat,
)

_log = logging.getLogger(__name__)

PAGE = 1000
"""Entries of a page of a listing: what one request to S3 or GCS brings."""


class StoredFile(io.IOBase):
    """A file in a storage, its metadata at hand, its bytes read when asked for.

    Attributes:
        file_id: its id; filename, content_type: as stored; content_length: bytes;
        last_modified: naive datetime, UTC, whole seconds.
    """

    def __init__(
        self,
        file_id: Any,
        filename: str | None = None,
        content_type: str | None = None,
        last_modified: datetime | None = None,
        content_length: int | None = None,
    ) -> None:
        io.IOBase.__init__(self)  # not super: a subclass may have filedepot's StoredFile for a second base
        self.file_id = file_id
        self.filename = filename
        self.content_type = content_type
        self.last_modified = last_modified
        self.content_length = content_length

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def name(self) -> str | None:
        """The filename, so that a stored file passes for a Python file."""
        return self.filename

    def read(self, n: int | None = -1) -> bytes:
        """The next `n` bytes, all that remain if negative or None, b"" for 0 and at the end. ValueError once closed."""
        raise NotImplementedError

    @property
    def public_url(self) -> str | None:
        """Where anybody may fetch the bytes by HTTP, None where nobody may."""
        return None

    def presigned_url(self, expires: float) -> str | None:
        """A URL that lets its holder fetch the bytes for `expires` seconds, None where the storage has none."""
        return None

    def __repr__(self) -> str:
        return (
            f"<{type(self).__module__}.{type(self).__name__} {self.file_id} filename={self.filename}"
            f" content_type={self.content_type} last_modified={self.last_modified}>"
        )


class FileStorage(ABC):
    """A place that keeps files by id.

    Class attributes (a subclass overrides what differs):
        id_form: the form of id that `create` generates.
        inline: its calls take microseconds (a local disk, memory) and may be made on an event loop.
        max_size: the largest content in bytes that it can hold, None for no limit of its own.
        conditional: whether `expect` is checked and acted on in one atomic step by the storage itself.
        ranged: `open_content` of a stat that is not empty asks nothing; each `pread` fetches just its range.

    Attributes:
        call_seconds: total seconds that one call may take without progress, None for the storage's own limits. The
            mount sets it from its `deadline`; a storage that waits for a server honours it.
    """

    id_form: ClassVar[IdForm] = IdForm.UUID
    inline: ClassVar[bool] = False
    max_size: int | None = None
    conditional: bool = False
    ranged: ClassVar[bool] = False
    call_seconds: float | None = None
    _warned: bool = False

    # --- filedepot's six -------------------------------------------------------------------------------------

    @staticmethod
    def fileid(file_or_id: Any) -> Any:
        """The id of a stored file, or the id itself."""
        return getattr(file_or_id, "file_id", file_or_id)

    @staticmethod
    def fileinfo(
        fileobj: Any, filename: str | None = None, content_type: str | None = None, existing: Any = None
    ) -> tuple[Any, str, str]:
        """(content, filename, content type) of whatever is to be stored: see `depotfs.io.utils.fileinfo`."""
        from depotfs.io.utils import fileinfo

        return fileinfo(fileobj, filename, content_type, existing)

    @abstractmethod
    def get(self, file_or_id: Any) -> StoredFile:
        """The stored file; its metadata is read now, its bytes later. FileNotStored, InvalidFileId."""

    @abstractmethod
    def create(self, content: Any, filename: str | None = None, content_type: str | None = None) -> str:
        """The content is stored under a new id, which is returned. Nothing is stored when it raises."""

    @abstractmethod
    def replace(
        self, file_or_id: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> str:
        """The content stands under that id; readers see the whole old or the whole new one.

        FileNotStored if there was none, unless `file_or_id` *is* `content` (a stored file, perhaps of another
        storage): then it is stored under its own id with its own time. What was there stays when it raises.
        """

    @abstractmethod
    def delete(self, file_or_id: Any) -> None:
        """The storage has no such file. No error if it had none."""

    @abstractmethod
    def exists(self, file_or_id: Any) -> bool:
        """Whether `get` would find it."""

    @abstractmethod
    def list(self) -> list[str]:
        """The ids of all stored files, and of nothing else."""

    # --- what the mount and the backup stand on --------------------------------------------------------------

    def identity(self) -> str:
        """What makes this the same storage after a restart: kind, endpoint, bucket or path, prefix. No secrets."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def is_id(self, text: str) -> bool:
        """Whether a file could be stored under `text`. Of a class with ids of its own: what a file name can be."""
        return is_canonical(text) or _can_be_a_name(text)

    def staging_directory(self) -> str | None:
        """An existing directory from which `put` can take a `FileContent` by rename, None where there is none."""
        return None

    def leave_staging(self) -> None:  # noqa: B027 - most have none
        """The staging directory is not needed for now: it goes if nothing is in it. May be called at any time."""

    def disk_path(self) -> str | None:
        """A path on the local file system whose free space is this storage's, None where there is none."""
        return None

    def limit_calls(self, seconds: float | None) -> None:  # noqa: B027 - most wait for nobody
        """Each call ends within about so many seconds without progress; None: as the backend has it by itself."""

    def close(self) -> None:  # noqa: B027 - a storage may have nothing to close
        """Connections are closed. The storage must not be used any more."""

    def sync(self, file_id: FileId) -> None:  # noqa: B027 - a server's acknowledgement is durable already
        """Content, metadata and entry of that file survive a loss of power. FileNotStored."""

    def stat(self, file_id: FileId) -> FileStat:
        """Everything but the bytes. FileNotStored. Made of `get`: the version is then time and length."""
        return _stat_of(self._found(file_id))

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        """All stored files whose id sorts behind `after` by its UTF-8 bytes, in that order, lazily, in pages.

        A file stored or deleted meanwhile may or may not be there; every other one is there once.
        """
        listed = {str(file_id) for file_id in self.list()}
        ids = sorted((i for i in listed if self.is_id(i) and i.encode() > after.encode()), key=str.encode)
        self._warn_of(sum(not self.is_id(i) for i in listed))
        for start in range(0, len(ids), PAGE):
            yield [FileEntry(FileId(i)) for i in ids[start : start + PAGE]]

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        """The current content (of an id), or that very version (of a stat). FileNotStored, VersionChanged.

        Made of `get`: the whole content is read into a temporary file at once.
        """
        if isinstance(file, str):
            return follow(lambda _: self._read_whole(file, None))
        return self._read_whole(file.file_id, file.version)

    def _read_whole(self, file_id: FileId, version: str | None) -> _TemporaryReader:
        reader = _TemporaryReader(self._found(file_id))
        try:
            now = self.stat(file_id).version
            if reader.stat.version != now or version not in (None, now):
                # What was read meanwhile may be of either.
                raise VersionChanged(f"File {file_id} was replaced in {self.identity()}")
            reader.check()
        except BaseException:
            reader.close()
            raise
        return reader

    def load(self, file_id: FileId, largest: int) -> tuple[FileStat, bytes | None]:
        """The stat, and the whole content of that version if it has at most `largest` bytes, by few requests.

        Raises: FileNotStored, VersionChanged (replaced in between), ContentDamaged (another checksum than stored).
        """
        stat = self.stat(file_id)
        if stat.size > largest:
            return stat, None
        with closing(self.open_content(stat)) as reader:
            data = read_exactly(reader, 0, stat.size)
        WholeCheck(stat, self.identity()).add(0, data)
        return stat, data

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """Content and metadata stand under `file_id`, whole, and were not seen in part by anyone.

        Args:
            expect: see `depotfs.types.Expected`.
            commit: an id to remember beside the content, so that a caller who lost the reply finds its own commit.
        Raises:
            AlreadyStored: `expect` is ABSENT and it is there.
            FileNotStored: `expect` is PRESENT and it is not.
            VersionChanged: another version, or nothing, is there.
            TooLarge, StorageFull, QuotaExceeded, AccessDenied, StorageUnavailable …: nothing was changed;
                after StorageUnavailable it may have been, look at `commit`.
        Made of `replace(f, f)`: there is a moment between looking and storing. Unsupported where the class
        refuses ids of ours; a time of our own is then kept only as well as the class keeps it.
        """
        check_expected(self, file_id, expect)
        given = self.given(file_id, content, metadata)
        try:
            stored = self.replace(given, given)
        except (OSError, ValueError) as error:
            if _refuses(error) and not self._has(file_id):
                raise Unsupported(f"{self.identity()} takes no file under a given id ({file_id}): {error}") from error
            raise
        if stored is not None and str(stored) != file_id:
            self.delete(stored)
            raise Unsupported(f"{self.identity()} chose the id {stored} instead of {file_id}")
        return self.stat(file_id)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        """The metadata is what is stored but for what is given; the bytes are not sent again where the backend can.

        What others changed of the metadata since `file` was seen stays.
        Raises: FileNotStored, VersionChanged (the content is not `file.version` any more).
        """
        current = self.stat(file.file_id)
        if current.version != file.version:
            raise VersionChanged(f"File {file.file_id} was replaced in {self.identity()}")
        metadata = current.metadata.changed(filename, content_type, modified)
        return self.copy(current, file.file_id, metadata, expect=file.version)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """`target` has the bytes of exactly `source` and this metadata. As `put`, and VersionChanged for the source."""
        reader = self.open_content(source)
        try:
            content = StreamContent(ReaderStream(reader), source.size)
            return self.put(content, metadata, file_id=target, expect=expect, commit=commit)
        finally:
            reader.close()

    def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """`target` has the bytes of exactly `source` and this metadata, and nothing is stored under the source's id.

        Readers of the target see the whole old or the whole new file. What others stored under the source's id
        meanwhile stays there. To the source's own id it is an update of the metadata.

        Args:
            expect: of the target, see `depotfs.types.Expected`.
            commit: an id to remember beside the content, as in `put`.
        Raises:
            VersionChanged, FileNotStored: the source is not that version any more.
            AlreadyStored, FileNotStored, VersionChanged: the target is not as expected.
            AccessDenied, StorageUnavailable …: as `put` and `remove`. Nothing was changed; after StorageUnavailable
                the target may have the content, look at `commit`.
            SourceLeft: the target has the content, and the source is there all the same. A removal in doubt is
                never undone, since it might still happen.
        The content is stored under one of the two ids at any moment. Made of `copy` and `remove`: for a moment it is
        under both, and stays so if the process dies then.
        """
        return move_by_copy(self, self.copy, source, target, metadata, expect, commit)

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        """Nothing is stored under that id, and if `expect` is a version, it was that one that went.

        No error if it was absent already. VersionChanged (nothing deleted) if another version is there.
        """
        if expect is not ANY:
            try:
                found = self.stat(file_id)
            except FileNotStored:
                return
            if expect not in (PRESENT, found.version):
                raise VersionChanged(f"File {file_id} was replaced in {self.identity()}")
        self.delete(file_id)

    # --- what these defaults are made of ---------------------------------------------------------------------

    def given(self, file_id: FileId, content: Content, metadata: FileMetadata) -> GivenFile:
        """What `put` hands to `replace`, as both arguments."""
        return GivenFile(file_id, content, metadata)

    def _found(self, file_id: FileId) -> StoredFile:
        """`get`, with filedepot's way to say that there is no such file understood: an OSError without a number."""
        try:
            return self.get(file_id)
        except InvalidFileId as error:
            raise FileNotStored(str(error)) from None
        except DepotError:
            raise
        except (OSError, LookupError) as error:
            if getattr(error, "errno", None) not in (None, errno.ENOENT):
                raise
            raise FileNotStored(f"File {file_id} not existing in {self.identity()}: {error}") from error
        except ValueError as error:
            if self._has(file_id):
                raise InvalidMetadata(f"Invalid metadata of {file_id} in {self.identity()}: {error}") from error
            raise FileNotStored(f"File {file_id} not existing in {self.identity()}: {error}") from error

    def _has(self, file_id: FileId) -> bool:
        try:
            return self.exists(file_id)
        except ValueError:
            return False  # it takes no such ids

    def _warn_of(self, skipped: int) -> None:
        if skipped and not self._warned:
            self._warned = True
            _log.warning("%s lists %d ids that cannot be file names; they are left out", self.identity(), skipped)


def check_expected(storage: FileStorage, file_id: FileId, expect: Expected) -> FileStat | None:
    """The current stat if it is as expected, None where nothing is stored and that is allowed.

    For backends that cannot leave the comparison to their server: what is true here may change at once.
    Raises: AlreadyStored, FileNotStored, VersionChanged as `put` does.
    """
    if expect is ANY:
        return None
    try:
        found = storage.stat(file_id)
    except FileNotStored:
        if expect == ABSENT:
            return None
        if expect == PRESENT:
            raise
        raise VersionChanged(f"File {file_id} was deleted in {storage.identity()}") from None
    if expect == ABSENT:
        raise AlreadyStored(f"File {file_id} is there already in {storage.identity()}")
    if expect not in (PRESENT, found.version):
        raise VersionChanged(f"File {file_id} was replaced in {storage.identity()}")
    return found


def _stat_of(file: StoredFile, counted: int | None = None) -> FileStat:
    """The stat of a foreign file; its length is what it says, else what was counted, else counted now."""
    modified = from_datetime(file.last_modified) if file.last_modified else 0
    size = counted if file.content_length is None else file.content_length
    if size is None:
        size = sum(map(len, iter(lambda: file.read(CHUNK), b"")))
    version = f"{modified}-{size}"
    metadata = FileMetadata(file.filename or UNNAMED, file.content_type or OCTET_STREAM, modified)
    revision = f"{version}-{metadata.filename}-{metadata.content_type}"
    return FileStat(FileId(str(file.file_id)), size, version, revision, metadata, modified * 10**9)


class GivenFile(StoredFile):
    """Content that passes for a file of another storage, so that `replace(f, f)` stores it under its id."""

    def __init__(self, file_id: FileId, content: Content, metadata: FileMetadata) -> None:
        modified = to_datetime(metadata.modified)
        super().__init__(file_id, metadata.filename, metadata.content_type, modified, content.size)
        self._content = content

    def read(self, n: int | None = -1) -> bytes:
        if n is not None and n >= 0:
            return self._content.read(n)
        return b"".join(iter(lambda: self._content.read(CHUNK), b""))


class _TemporaryReader(ContentReader):
    """The content of a file that can only be read from the start, kept in an unnamed temporary file."""

    def __init__(self, file: StoredFile) -> None:
        self._copy = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the reader
        try:
            with closing(file):
                while piece := file.read(CHUNK):
                    self._copy.write(piece)
                self._copy.flush()
                self._size = self._copy.tell()
                self.stat = _stat_of(file, self._size)
        except BaseException:
            self._copy.close()
            raise

    def check(self) -> None:
        """ContentDamaged if the file had fewer or more bytes than it claimed."""
        if self._size != self.stat.size:
            raise ContentDamaged(f"File {self.stat.file_id} has {self._size} bytes instead of {self.stat.size}")

    def pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._copy.fileno(), size, offset)

    def fileno(self) -> int | None:
        return self._copy.fileno()

    def close(self) -> None:
        self._copy.close()


def _can_be_a_name(text: str) -> bool:
    try:
        return text not in ("", ".", "..") and "/" not in text and "\0" not in text and len(text.encode()) <= 255
    except UnicodeEncodeError:
        return False


def _refuses(error: Exception) -> bool:
    """Whether an error of `replace(f, f)` can mean that the class takes no ids but its own."""
    if isinstance(error, FileNotStored | InvalidFileId):
        return True
    no_number = getattr(error, "errno", None) in (None, errno.ENOENT)
    return no_number and not isinstance(error, DepotError | UnicodeError)
