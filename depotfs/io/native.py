"""What all backends of ours share: filedepot's six methods, made of the extended ones.

A backend implements `stat`, `pages`, `open_content`, `put`, `copy`, `remove` (and `update` where it can do better
than copying onto itself), and by that has `get`, `create`, `replace`, `delete`, `exists` and `list`, with one set
of rules for names, types and times.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from depotfs.errors import FileNotStored, InvalidMetadata, VersionChanged
from depotfs.io import utils
from depotfs.io.checksums import WholeCheck
from depotfs.io.content import Content
from depotfs.io.ids import IdForm, canonical, is_canonical, new_uuid
from depotfs.io.interfaces import FileStorage, StoredFile
from depotfs.io.reader import ContentReader, follow, read_exactly, sought
from depotfs.io.times import from_datetime, parse_stored, to_datetime
from depotfs.types import (
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

_FIRST_WINDOW = 1 << 18
_LARGEST_WINDOW = 8 << 20
"""Bytes fetched at once for a reader in small steps: doubled each time up to what keeps boto3's cost per
request (1 ms) small beside the transfer."""
_RACES = 100
"""How often a replace that keeps name or type is tried again because others replaced the file in between."""


class NativeStorage(FileStorage):
    """A storage whose own notions are ids, versions and expectations."""

    id_form: ClassVar[IdForm] = IdForm.UUID
    conditional = True
    ranged: ClassVar[bool] = True
    presign_seconds: float | None = None
    """For how long a `public_url` is good once it was made; None: it is a plain one, good for ever."""

    # --- what a backend implements; obligations in FileStorage -----------------------------------------------

    @abstractmethod
    def identity(self) -> str: ...

    @abstractmethod
    def stat(self, file_id: FileId) -> FileStat: ...

    @abstractmethod
    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]: ...

    @abstractmethod
    def open_content(self, file: FileId | FileStat) -> ContentReader: ...

    @abstractmethod
    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat: ...

    @abstractmethod
    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat: ...

    @abstractmethod
    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None: ...

    def new_id(self) -> FileId:
        """An id that no file has, of this backend's form."""
        return new_uuid()

    def public_url(self, stat: FileStat) -> str | None:
        """What `StoredFile.public_url` is."""
        return None

    def presigned_url(self, stat: FileStat, expires: float) -> str | None:
        """What `StoredFile.presigned_url` is."""
        return None

    def store(self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY) -> str:
        """As `put`, for callers who need the id alone: saves a request where a stat costs one."""
        return self.put(content, metadata, file_id=file_id, expect=expect).file_id

    # --- filedepot's six -------------------------------------------------------------------------------------

    def is_id(self, text: str) -> bool:
        return is_canonical(text)

    def get(self, file_or_id: Any) -> StoredFile:
        return NativeStoredFile(self, self.stat(canonical(file_or_id)))

    def create(self, content: Any, filename: str | None = None, content_type: str | None = None) -> str:
        source, name, kind = utils.fileinfo(content, filename, content_type)
        metadata = FileMetadata(name, kind, _now())
        return self.store(utils.as_content(source), metadata, file_id=self.new_id())

    def replace(
        self, file_or_id: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> str:
        file_id = canonical(file_or_id)
        if file_or_id is content:
            return self._replace_by_itself(file_id, content, filename, content_type)
        source, name, kind = utils.detect(content, filename, content_type)
        accepted = utils.as_content(source)  # before anything is asked of the server
        if name is not None and kind is not None:
            return self.store(accepted, FileMetadata(name, kind, _now()), file_id=file_id, expect=PRESENT)
        for attempt in range(_RACES):
            old, expect = self._kept(file_id)
            metadata = FileMetadata(name or old.filename, kind or old.content_type, _now())
            try:
                return self.store(accepted, metadata, file_id=file_id, expect=expect)
            except VersionChanged:
                # Somebody else replaced it in between: what is kept is then that one's name and type.
                if attempt == _RACES - 1 or not accepted.restart():
                    raise
        raise AssertionError("the loop returns or raises")

    def _kept(self, file_id: FileId) -> tuple[FileMetadata, Expected]:
        """What a replace keeps of the file that is there, and expects to be there. FileNotStored if nothing is."""
        try:
            existing = self.stat(file_id)
        except InvalidMetadata:
            return FileMetadata(UNNAMED, OCTET_STREAM, 0), PRESENT  # damaged, so it is all the more to be replaced
        return existing.metadata, existing.version if self.conditional else PRESENT

    def _replace_by_itself(self, file_id: FileId, file: Any, filename: str | None, content_type: str | None) -> str:
        source, name, kind = utils.fileinfo(file, filename, content_type)
        modified = getattr(file, "last_modified", None)
        metadata = FileMetadata(name, kind, from_datetime(modified) if modified else _now())
        return self.store(utils.as_content(source), metadata, file_id=file_id)

    def delete(self, file_or_id: Any) -> None:
        self.remove(canonical(file_or_id))

    def exists(self, file_or_id: Any) -> bool:
        try:
            self.stat(canonical(file_or_id))
        except FileNotStored:
            return False
        return True

    def list(self) -> list[str]:
        return [entry.file_id for page in self.pages() for entry in page]


class NativeStoredFile(StoredFile):
    """A stored file as a seekable binary stream; its content is opened at the first read.

    One that is not yet read when its file is replaced reads the whole new content. One that is partly read then
    raises VersionChanged. Read from first to last byte, a stored checksum is compared: ContentDamaged at the end.
    """

    def __init__(self, storage: NativeStorage, stat: FileStat) -> None:
        self.stat = stat
        metadata = stat.metadata
        super().__init__(
            stat.file_id, metadata.filename, metadata.content_type, to_datetime(metadata.modified), stat.size
        )
        self._storage = storage
        self._reader: ContentReader | None = None
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._next_window = _FIRST_WINDOW
        self._check: WholeCheck | None = None
        self._pinned = False

    @property
    def public_url(self) -> str | None:
        return self._storage.public_url(self.stat)

    def presigned_url(self, expires: float) -> str | None:
        return self._storage.presigned_url(self.stat, expires)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        self._position = sought(offset, whence, self._position, self.stat.size)
        return self._position

    def read(self, n: int | None = -1) -> bytes:
        self._check_open()
        if n is None or n < 0:
            return b"".join(self._rest())
        pieces = []
        while n > 0 and (piece := self._piece(n)):
            pieces.append(piece)
            n -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, n: int = -1) -> bytes:
        return self._piece(n if n >= 0 else _FIRST_WINDOW)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()

    def readline(self, size: int | None = -1) -> bytes:
        pieces = []
        left = -1 if size is None else size
        while left and (piece := self._piece(left if left > 0 else _FIRST_WINDOW)):
            end = piece.find(b"\n") + 1
            self._position -= len(piece) - end if end else 0
            pieces.append(piece[:end] if end else piece)
            left -= len(pieces[-1]) if left > 0 else 0
            if end:
                break
        return b"".join(pieces)

    def pin(self) -> ContentReader:
        """From now on only the content that `stat` tells of is read, by the reader that is returned and stays ours.

        Raises:
            VersionChanged: it was replaced. So do later reads, also the first one.
        """
        self._check_open()
        if self._reader is None:
            self._reader = self._storage.open_content(self.stat)
        elif self._reader.stat.version != self.stat.version:
            raise VersionChanged(f"File {self.stat.file_id} was replaced in {self._storage.identity()}")
        self._pinned = True
        return self._reader

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._window = b""
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _opened(self) -> ContentReader:
        if self._reader is None:
            try:
                self._reader = self._storage.open_content(self.stat)
            except VersionChanged:
                self._reader = self._storage.open_content(self.stat.file_id)
        return self._reader

    def _piece(self, size: int) -> bytes:
        """Up to `size` bytes at the position, at least one before the end; moves the position."""
        self._check_open()
        start = self._position - self._window_start
        if not 0 <= start < len(self._window):
            self._fetch(size)
            start = 0
        data = self._window[start : start + size] if start or size < len(self._window) else self._window
        self._position += len(data)
        return data

    def _rest(self) -> Iterator[bytes]:
        # The size is asked for anew each time: the first piece may come from content that has just replaced this.
        while (left := self._opened().stat.size - self._position) > 0 and (piece := self._piece(left)):
            yield piece

    def _fetch(self, size: int) -> None:
        following = self._position == self._window_start + len(self._window)
        self._next_window = min(self._next_window * 2, _LARGEST_WINDOW) if following else _FIRST_WINDOW
        # A reader that asks for more than the largest window gets it in such pieces: bounded memory here.
        wanted = min(max(size, self._next_window), max(_LARGEST_WINDOW, self._next_window))
        data = self._read_or_reopen(wanted)
        self._window, self._window_start = data, self._position
        self._verify(data)

    def _read_or_reopen(self, size: int) -> bytes:
        def read(number: int) -> bytes:
            if number:
                self._reopen()
            return read_exactly(self._opened(), self._position, size)

        untouched = not (self._pinned or self._position or self._window)
        return follow(read) if untouched else read(0)

    def _reopen(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._reader = self._storage.open_content(self.stat.file_id)

    def _verify(self, data: bytes) -> None:
        if self._position == 0:
            self._check = WholeCheck(self._opened().stat, self._storage.identity())
        if self._check is not None:
            self._check.add(self._position, data)


def _now() -> int:
    """Seconds since the epoch of `utils.timestamp()`, so that replacing that function sets the clock."""
    return parse_stored(utils.timestamp()) or 0
